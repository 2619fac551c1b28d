"""What is attached to a block's submodules or put in their place takes effect."""

import copy
import io
import pickle
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval

import nonlocalnet as nl
from nonlocalnet.blocks.non_local_block import SubsamplePosition
from nonlocalnet.ops import Pairwise

FORMS, POSITIONS = get_args(Pairwise), get_args(SubsamplePosition)
OPTIONS = [
    {},
    {"subsample": (1, 2, 2)},
    {"subsample": (1, 2, 2), "subsample_position": "after"},
    {"extent": "space", "norm": None},
    {"extent": "time", "norm": "group"},
    {"temporal_group": 2, "subsample": (2, 1, 1), "norm": "frozen", "bias": False},
]


def awake(pairwise="embedded_gaussian", *, dims=3, dtype=torch.float64, **options):
    """A block of 6 channels that is not the identity, in evaluation mode."""
    torch.manual_seed(0)
    block = nl.NonLocalBlock(6, dims, pairwise, **options).to(dtype)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.7)
    return block.eval()


def clip(*size, dtype=torch.float64):
    return torch.randn(
        2, 6, *(size or (4, 4, 4)), generator=torch.Generator().manual_seed(1), dtype=dtype
    )


def close(actual, expected, atol=1e-11):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=atol)


def parts(block):
    """The submodules by name."""
    return dict(block.named_children())


class Called(nn.Module):
    """Another module around one: nothing but its output is like it."""

    def __init__(self, base, change=lambda y: y):
        super().__init__()
        self.base, self.change, self.calls = base, change, 0

    def forward(self, x):
        self.calls += 1
        return self.change(self.base(x))


def results(block, x, mask=None):
    """Output, affinity and all gradients."""
    block.zero_grad()
    x = x.clone().requires_grad_()
    z = block(x, mask=mask)
    z.square().sum().backward()
    return z, block.affinity(x, mask=mask), x.grad, *(p.grad for p in block.parameters())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pairwise", FORMS)
def test_called_and_passed_by_are_the_same_function(pairwise, options, masked):
    block, x = awake(pairwise, **options), clip()
    mask = torch.arange(4) < torch.tensor([[4], [3]])
    mask = mask[:, None, None].expand(2, 4, 4, 4) if masked else None
    expected, plan = results(block, x, mask), block.explain(x, mask)
    for name, module in parts(block).items():
        setattr(block, name, Called(module))
    for actual, wanted in zip(results(block, x, mask), expected, strict=True):
        close(actual, wanted, atol=1e-9)
    for module in parts(block).values():
        module.calls = 0
    block(x)
    assert {name: module.calls for name, module in parts(block).items()} == dict.fromkeys(
        parts(block), 1
    )
    assert block.explain(x, mask) == plan


@pytest.mark.parametrize("only", ["theta", "phi", "g", "w_z", "norm"])
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "concatenation"])
def test_one_changed_submodule_is_called_and_changes_the_output(pairwise, only):
    block, x = awake(pairwise, subsample=(1, 2, 2)), clip()
    before, affinity = block(x), block.affinity(x)
    setattr(block, only, Called(getattr(block, only), lambda y: 2 * y + 1))
    assert (block(x) - before).abs().max() > 1e-3
    assert (block.affinity(x) - affinity).abs().max() > 1e-6 or only not in ("theta", "phi")
    assert getattr(block, only).calls == (2 if only in ("theta", "phi", "g") else 1)


HOOKS = {
    "forward hook": lambda module, note: module.register_forward_hook(lambda *_: note()),
    "pre-hook": lambda module, note: module.register_forward_pre_hook(lambda *_: note()),
    "backward hook": lambda module, note: module.register_full_backward_hook(lambda *_: note()),
    "backward pre-hook": lambda module, note: module.register_full_backward_pre_hook(
        lambda *_: note()
    ),
}


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("train", [True, False])
def test_hooks_of_every_kind_run_once_each(kind, train):
    block, x = awake().train(train), clip().requires_grad_()
    expected = copy.deepcopy(block)(x)
    notes = []
    handles = [
        HOOKS[kind](module, lambda name=name: notes.append(name))
        for name, module in parts(block).items()
    ]
    z = block(x)
    z.sum().backward()
    close(z, expected)
    assert sorted(notes) == sorted(parts(block))
    for handle in handles:
        handle.remove()
    block(x).sum().backward()
    assert len(notes) == len(parts(block))


def test_hooks_of_all_modules_see_the_submodules():
    block, seen = awake(), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        block(clip())
    finally:
        handle.remove()
    assert seen == [block.theta, block.phi, block.g, block.w_z, block.norm, block]


class Lora(nn.Module):
    """An adapter as its packages write them: the base's weight is shown, and is not all."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Conv3d(base.in_channels, 2, 1, bias=False)
        self.up = nn.Conv3d(2, base.out_channels, 1, bias=False)

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Standardized(nn.Conv3d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3, 4), keepdim=True)) / w.std((1, 2, 3, 4), keepdim=True)
        return F.conv3d(x, w, self.bias)


def standardized(conv):
    new = Standardized(conv.in_channels, conv.out_channels, 1).to(conv.weight)
    new.load_state_dict(conv.state_dict())
    return new


def with_own_forward(conv):
    """As tools that move weights between devices do it."""
    plain = conv.forward
    conv.forward = lambda x: 2 * plain(x)
    return conv


def old_weight_norm(conv):
    with pytest.warns(FutureWarning):
        conv = nn.utils.weight_norm(conv)
    conv.weight_g.data *= 2
    return conv


def new_weight_norm(conv):
    parametrizations.weight_norm(conv)
    conv.parametrizations.weight.original0.data *= 2
    return conv


def halved(conv):
    class Half(nn.Module):
        def forward(self, w):
            return w / 2

    return parametrize.register_parametrization(conv, "weight", Half())


def strided(conv):
    """No hook and no other class: a 1x1x1 convolution but for what it does."""
    new = nn.Conv3d(conv.in_channels, conv.out_channels, 3, padding=1)
    return new.to(conv.weight)


SURGERY = {
    "old spectral norm": nn.utils.spectral_norm,
    "old weight norm": old_weight_norm,
    "pruned": lambda conv: prune.l1_unstructured(conv, "weight", amount=0.5),
    "structured": lambda conv: prune.ln_structured(conv, "weight", amount=0.5, n=2, dim=0),
    "spectral norm": parametrizations.spectral_norm,
    "weight norm": new_weight_norm,
    "parametrized": halved,
    "adapter": lambda conv: Lora(conv).double(),
    "weight standardization": standardized,
    "another forward": with_own_forward,
    "another kernel": strided,
    "in a sequence": lambda conv: nn.Sequential(conv, nn.Tanh()),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", SURGERY)
def test_surgery_on_every_projection_takes_effect(kind, train):
    block, x = awake(norm=None), clip()
    before = block(x)
    for name in ("theta", "phi", "g", "w_z"):
        setattr(block, name, SURGERY[kind](getattr(block, name)))
    block.train(train)
    changed = block(x)
    assert (changed - before).abs().max() > 1e-3

    def rows(y):
        return y.flatten(2).mT

    if not (train and "spectral" in kind):  # whose vectors move with every call
        theta, phi, g = (rows(getattr(block, name)(x)) for name in ("theta", "phi", "g"))
        y = nl.non_local(theta, phi, g, scale=block.scale)
        close(changed, x + block.w_z(y.mT.unflatten(2, x.shape[2:])), atol=1e-9)
    before = copy.deepcopy(block.state_dict())
    optimizer = torch.optim.SGD(block.parameters(), lr=0.01)
    for _ in range(2):  # a graph that was kept would raise in the second
        optimizer.zero_grad()
        block(x).square().mean().backward()
        optimizer.step()
    after = block.state_dict()
    weights = [name for name, _ in block.named_parameters() if "bias" not in name]
    assert [name for name in weights if torch.equal(before[name], after[name])] == []


NORMS = {
    "group": lambda: nn.GroupNorm(3, 6),
    "layer": lambda: nn.GroupNorm(1, 6),
    "none": nn.Identity,
    "instance": lambda: nn.InstanceNorm3d(6, affine=True),
    "without parameters": lambda: nn.BatchNorm3d(6, affine=False),
    "without statistics": lambda: nn.BatchNorm3d(6, track_running_stats=False),
    "of all processes": lambda: nn.SyncBatchNorm(6),
    "dropout": lambda: nn.Dropout3d(),
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", NORMS)
def test_any_module_may_be_the_norm(kind, train):
    train = train and kind != "of all processes"  # which trains on GPUs alone
    block, x = awake(norm=None), clip()
    plain = block(x) - x
    norm = NORMS[kind]().double()
    for value in norm.state_dict().values():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5, 1.5)
    block.norm = copy.deepcopy(norm)
    block.train(train)
    torch.manual_seed(2)
    z = block(x)
    torch.manual_seed(2)
    close(z, x + norm.train(train)(plain))
    close(block.norm.state_dict(), norm.state_dict())


def test_torchvisions_frozen_norm():
    frozen = pytest.importorskip("torchvision.ops").FrozenBatchNorm2d
    block, x = awake(dims=2), clip(5, 4)
    expected, norm = block(x), frozen(6, eps=block.norm.eps).double()
    norm.load_state_dict(block.norm.state_dict(), strict=False)
    block.norm = norm
    close(block(x), expected)
    close(block.train()(x), expected)


def test_fusing_the_norm_into_w_z_by_hand():
    block, x = awake(), clip()
    nn.init.uniform_(block.norm.running_var, 0.5, 1.5)
    expected = block(x)
    block.w_z, block.norm = fuse_conv_bn_eval(block.w_z, block.norm), nn.Identity()
    close(block(x), expected)


def test_phi_and_g_may_differ_in_width_and_bias():
    block, x = awake(norm=None), clip()
    block.g, block.w_z = nn.Conv3d(6, 5, 1, bias=False).double(), nn.Conv3d(5, 6, 1).double()
    theta, phi, g = (m(x).flatten(2).mT for m in (block.theta, block.phi, block.g))
    y = nl.non_local(theta, phi, g, scale=block.scale)
    close(block(x), x + block.w_z(y.mT.unflatten(2, x.shape[2:])))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None])
@pytest.mark.parametrize("pairwise", FORMS)
def test_called_submodules_in_half_precision(pairwise, dtype):
    """None is autocast to bfloat16."""
    block = awake(pairwise, dtype=torch.float32, norm=None, inner_channels=4)
    x = clip(3, 4, 5, dtype=torch.float32)
    for name, module in parts(block).items():
        setattr(block, name, Called(module))
    block, x = (block.to(dtype), x.to(dtype)) if dtype else (block, x)
    exact = copy.deepcopy(block).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is None):
        z = block(x)
    assert z.dtype == (dtype or torch.float32)
    eps = torch.finfo(dtype or torch.bfloat16).eps
    assert (z.double() - exact).abs().max() < 64 * eps * exact.abs().max()


def operated(kind="adapter"):
    block = awake(subsample=(1, 2, 2))
    for name in ("theta", "g", "w_z"):
        setattr(block, name, SURGERY[kind](getattr(block, name)))
    block.norm.register_forward_hook(double)
    return block


def double(module, args, output):
    return 2 * output


def test_operated_blocks_are_copied_and_pickled():
    block, x = operated(), clip()
    z = block(x)
    assert torch.equal(copy.deepcopy(block)(x), z)
    assert torch.equal(pickle.loads(pickle.dumps(block))(x), z)


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, vmap slow
def test_operated_blocks_compile_export_trace_and_map():
    block, x = operated(), clip()
    z = block(x)
    torch.compiler.reset()
    close(torch.compile(block, fullgraph=True, backend="aot_eager")(x), z)
    close(torch.export.export(block, (x,)).module()(x), z)
    close(torch.jit.trace(block, x)(x), z)
    weights = {k: v.detach() for k, v in block.named_parameters()}
    close(torch.func.functional_call(block, weights, (x,)), z)
    two = {k: torch.stack([v, v / 2]) for k, v in weights.items()}
    each = torch.func.vmap(lambda w: torch.func.functional_call(block, w, (x,)))(two)
    close(each[0], z)
    halved = {k: v / 2 for k, v in weights.items()}
    close(each[1], torch.func.functional_call(block, halved, (x,)))


def test_plain_blocks_map_over_weights():
    block, x = awake(subsample=(1, 2, 2)), clip()
    two = {k: torch.stack([v, v / 2]).detach() for k, v in block.named_parameters()}
    each = torch.func.vmap(lambda w: torch.func.functional_call(block, w, (x,)))(two)
    close(each[0], block(x))


def test_starting_afresh_is_refused_where_it_would_do_nothing():
    block = awake()
    prune.l1_unstructured(block.g, "weight", amount=0.5)
    with pytest.raises(ValueError, match="g must have its weight as its own parameter"):
        block.reset_parameters()
    prune.remove(block.g, "weight")
    block.norm = nn.Identity()
    block.reset_parameters()
    assert torch.equal(block(clip()), clip())


def test_a_state_of_pruned_weights_is_loaded_with_its_masks():
    block, other, x = awake(), awake(), clip()
    for conv in (block.theta, block.w_z):
        prune.random_unstructured(conv, "weight", amount=0.5)
    for conv in (other.theta, other.w_z):
        prune.identity(conv, "weight")
        conv.weight_orig.data.zero_()
    file = io.BytesIO()
    torch.save(block.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), block(x))
