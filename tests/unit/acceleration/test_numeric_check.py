"""What is not the function of a family is left alone, and the report says why."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nonlocalnet as nl
import stand_ins as wild
from nonlocalnet.acceleration.families import FAMILIES, family_named
from nonlocalnet.acceleration.families.others import OTHERS
from nonlocalnet.acceleration.network import accelerate


def edited(kind: Any, forward: Callable, *args: Any, **options: Any) -> nn.Module:
    """A block whose class was copied into a project and edited there."""
    block = kind(*args, **options)
    block.__class__ = type(kind.__name__, (nn.Module,), {"forward": forward})
    return block


def attn_block(
    scale: float = 32**-0.5, axis: int = -1, eps: float = 1e-6, add: float = 1.0
) -> Callable:
    def forward(self: Any, x: Tensor) -> Tensor:
        same = eps == self.norm.eps
        norm = self.norm
        z = norm(x) if same else F.group_norm(x, norm.num_groups, norm.weight, norm.bias, eps)
        q, k, v = (p(z).flatten(2) for p in (self.q, self.k, self.v))
        w = (q.mT @ k * scale).softmax(axis)
        return add * x + self.proj_out((v @ w.mT).view_as(x))

    return forward


def pooled_before(self: Any, x: Tensor) -> Tensor:
    pool = self.g[1]
    theta, phi, g = self.theta(x), self.phi[0](pool(x)), self.g[0](pool(x))
    return self.W(wild.dense(theta, phi, g).unflatten(2, x.shape[2:])) + x


def average_pooled(self: Any, x: Tensor) -> Tensor:
    phi, g = F.avg_pool2d(self.phi(x), 2), F.avg_pool2d(self.g(x), 2)
    y = wild.dense(self.theta(x), phi, g).unflatten(2, x.shape[2:])
    return self.gamma * self.o(y) + x


def other_layout(self: Any, x: Tensor) -> Tensor:
    qkv = self.qkv(self.norm(x)).unflatten(1, (3, self.n_head, -1)).unbind(1)
    q, k, v = (t.flatten(1, 2) for t in qkv)
    return self.out(wild.dense(q, k, v, x.shape[1] ** -0.5, self.n_head).view_as(x)) + x


def without_gamma(self: Any, x: Tensor) -> Tensor:
    w = self.softmax(self.query_conv(x).flatten(2).mT @ self.key_conv(x).flatten(2))
    return (self.value_conv(x).flatten(2) @ w.mT).view_as(x) + x + 0 * self.gamma


def detached(self: Any, x: Tensor) -> Tensor:
    w = self.softmax(self.query_conv(x).flatten(2).mT @ self.key_conv(x).flatten(2)).detach()
    return self.gamma * (self.value_conv(x).flatten(2) @ w.mT).view_as(x) + x


def keeping_the_weights(self: Any, x: Tensor) -> Tensor:
    self.weights = self.softmax(self.query_conv(x).flatten(2).mT @ self.key_conv(x).flatten(2))
    return self.gamma * (self.value_conv(x).flatten(2) @ self.weights.mT).view_as(x) + x


MUTANTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "scale": (lambda: edited(wild.AttnBlock, attn_block(scale=1.0), 32), "its output differs"),
    "axis": (lambda: edited(wild.AttnBlock, attn_block(axis=-2), 32), "its output differs"),
    "eps": (lambda: edited(wild.AttnBlock, attn_block(eps=1e-5), 32), "calls norm 0 times, not 1"),
    "residual": (lambda: edited(wild.AttnBlock, attn_block(add=0.5), 32), "its output differs"),
    "pool before": (
        lambda: edited(wild.TextbookBlock, pooled_before, 32, 2, "embedded_gaussian", True, True),
        "its output differs",
    ),
    "pool kind": (lambda: edited(wild.BigGANAttention, average_pooled, 32), "its output differs"),
    "head layout": (
        lambda: edited(wild.SR3SelfAttention, other_layout, 32, n_head=4),
        "its output differs",
    ),
    "gamma": (lambda: edited(wild.PAM_Module, without_gamma, 32), "its output differs"),
    "gradient": (lambda: edited(wild.PAM_Module, detached, 32), "gradient of"),
    "kept weights": (lambda: edited(wild.PAM_Module, keeping_the_weights, 32), "it sets weights"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_check_catches_an_edit(name):
    make, why = MUTANTS[name]
    block = make()
    kind = type(block)
    found = accelerate(block, verbose=False)
    assert len(found) == 1
    assert found.accelerated == ()
    assert type(block) is kind
    assert why in found[0].note
    assert "left alone" in str(found)


def test_the_unedited_forward_of_the_mutants_passes():
    block = edited(wild.AttnBlock, attn_block(), 32)
    assert accelerate(block, verbose=False).accelerated


def test_a_class_of_another_name_is_recognized_by_its_parts():
    block = type("MyAttention", (nn.Module,), {"__init__": wild.attn_block_init,
                                               "forward": wild.AttnBlock.forward})(32)  # fmt: skip
    assert accelerate(block, verbose=False)[0].family == "AttnBlock"


def test_blocks_that_look_alike_are_named():
    kinds = [type(name, (nn.Identity,), {}) for name in OTHERS]
    found = accelerate(nn.Sequential(*[kind() for kind in kinds]), verbose=False)
    assert {f.kind: f.note for f in found} == OTHERS
    assert not found.accelerated


def test_criss_cross_attention_has_the_parts_of_danet():
    """The same keys and shapes, and another function, under a name that is not known."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        w = (q.mT @ k).softmax(-1)  # within a column
        return self.gamma * (v @ w.mT) + x

    block = edited(wild.PAM_Module, forward, 32)
    type(block).__name__ = "AxialAttention"
    assert "its own forward fails" in accelerate(block, verbose=False)[0].note


def test_obstacles_are_named():
    class Overriding(wild.AttnBlock):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    class Pickling(wild.AttnBlock):
        def __reduce__(self) -> Any:
            return super().__reduce__()

    patched, hooked = wild.AttnBlock(32), wild.PAM_Module(32)
    patched.forward = patched.forward
    hooked.softmax.register_forward_hook(print)
    network = nn.ModuleDict(
        {
            "overriding": Overriding(32),
            "pickling": Pickling(32),
            "patched": patched,
            "hooked": hooked,
            "compiled": torch.compile(wild.AttnBlock(32)),
            "scripted": torch.jit.trace(wild.AttnBlock(32), torch.randn(1, 32, 4, 4)),
        }
    )
    notes = {f.path: f.note for f in accelerate(network, verbose=False)}
    assert notes == {
        "overriding": "Overriding overrides the forward of AttnBlock",
        "pickling": "Pickling pickles in its own way",
        "patched": "its forward was replaced on the instance",
        "hooked": "softmax has a hook, which would not run any more",
        "compiled._orig_mod": "it is compiled already: accelerate the network before compiling it",
        "scripted": "a ScriptModule cannot be changed: accelerate the network before scripting it",
    }


def test_a_hook_on_a_bypassed_child_brings_the_own_code_back():
    block = wild.PAM_Module(32)
    accelerate(block, verbose=False)
    seen = []
    x = torch.randn(1, 32, 24, 24)
    block(x)
    block.softmax.register_forward_hook(lambda *_: seen.append(1))
    block(x)
    assert seen == [1]


def test_spectral_norm_is_checked_after_a_forward_with_gradients():
    """Its plain attribute with a graph cannot be deep-copied."""
    block = wild.FastaiSelfAttention(32)
    block(torch.randn(1, 32, 4, 4))
    state = {key: value.clone() for key, value in block.state_dict().items()}
    assert accelerate(block, verbose=False).accelerated
    assert all(torch.equal(value, state[key]) for key, value in block.state_dict().items())


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("legacy", [False, True])
def test_guided_diffusion_in_both_layouts(heads, legacy):
    block = wild.GuidedAttentionBlock(32, heads, legacy)
    found = accelerate(block, verbose=False)
    assert [f.path for f in found.accelerated] == ["attention"]
    if heads > 1:
        assert found[0].family == f"guided-diffusion, {'h3c' if legacy else '3hc'}"


@pytest.mark.parametrize(
    "make",
    [
        lambda: wild.TextbookBlock(8, 1, "embedded_gaussian", True, True),
        lambda: wild.TextbookBlock(8, 3, "concatenation", True, False),
        lambda: wild.TextbookBlock(8, 2, "gaussian", False, True),
        lambda: wild.MmcvNonLocal(8, 2, "gaussian", sub_sample=True),
        lambda: wild.MmcvNonLocal(8, 1, "embedded_gaussian", use_scale=False),
        lambda: wild.MmcvNonLocal(8, 2, "concatenation", sub_sample=True),
        lambda: wild.AttnBlockpp(32, skip_rescale=True),
        lambda: wild.SR3SelfAttention(32, n_head=4),
        lambda: wild.UNetBlock(32, 8, num_heads=2, adaptive_scale=False),
        lambda: wild.LucidrainsAttention(16),
        lambda: wild.NonLocalAttn(16, use_scale=False),
        lambda: wild.SABlock(16, num_heads=2, combined=True),
        lambda: wild.CausalAttnBlock(16),
        lambda: wild.AttentionBlock(16),
        lambda: wild.HunyuanVideo15AttnBlock(16),
        lambda: wild.TusharNonLocal(
            8, ("theta", "phi", "g", "out", "bn", "maxpool"), "softmax", nn.MaxPool3d((1, 2, 2))
        ),
    ],
)
def test_other_options_of_the_families(make):
    found = accelerate(make(), verbose=False)
    assert len(found.accelerated) == 1, found


def test_concatenation_that_cannot_train_does_when_accelerated():
    block = wild.MmcvNonLocal(8, 2, "concatenation")
    x = torch.randn(1, 8, 4, 5)
    expected = block(x)
    with pytest.raises(RuntimeError, match="inplace"):
        expected.sum().backward()
    accelerate(block, verbose=False)
    y = block(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


def test_families_have_unique_names_that_files_keep():
    assert all(family_named(family.name) is family for family in FAMILIES)
    with pytest.raises(ValueError, match="does not know"):
        family_named("of the future")


def test_nothing_found_is_said():
    assert "no attention or non-local block" in str(nl.accelerate(nn.Linear(2, 2), verbose=False))


def test_sagans_weights_are_computed_when_they_are_used():
    block = wild.Self_Attn(32).double()
    nn.init.ones_(block.gamma)
    x = torch.randn(2, 32, 24, 24, dtype=torch.double, requires_grad=True)
    expected, expected_weights = block(x)
    found = accelerate(block, verbose=False)
    assert [f.family for f in found.accelerated] == ["SAGAN"], found
    out, weights = block(x)
    assert weights._value is None  # nobody used them
    assert weights.shape == expected_weights.shape
    assert weights.dtype is torch.double
    torch.testing.assert_close(out, expected)
    gradients = []
    for y, w in ((out, weights), (expected, expected_weights)):
        block.zero_grad()
        x.grad = None
        (y.sum() + w[:, 0].square().sum()).backward()
        gradients.append([x.grad, block.key_conv.weight.grad])
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(weights.detach().numpy(), expected_weights.detach().numpy())
    with torch.no_grad():
        assert block(x)[1].numpy().sum() == pytest.approx(2 * 576)
