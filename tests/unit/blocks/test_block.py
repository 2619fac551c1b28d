"""The block against einsum over explicit groups of positions, in float64."""

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import nonlocalnet as nl
from nonlocalnet.blocks.non_local_block import SubsamplePosition
from nonlocalnet.blocks.norm import BlockNorm
from nonlocalnet.ops import Pairwise
from nonlocalnet.options import Extent

FORMS, EXTENTS = get_args(Pairwise), get_args(Extent)
POSITIONS, NORMS = get_args(SubsamplePosition), (*get_args(BlockNorm), None)
SIZE = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def video(*size, batch=2, channels=6, seed=0, dtype=torch.float64) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn((batch, channels, *size), generator=rng, dtype=torch.float64).to(dtype)


def awake(*arguments, seed=1, **options) -> nl.NonLocalBlock:
    """A block in float64 whose every number is random: not the identity."""
    block = nl.NonLocalBlock(*arguments, **options).double().eval()
    rng = torch.Generator().manual_seed(seed)
    for name, value in block.state_dict().items():
        if value.is_floating_point():
            fresh = torch.randn(value.shape, generator=rng, dtype=torch.float64)
            value.copy_(fresh.abs() + 0.5 if name.endswith("running_var") else 0.7 * fresh)
    return block


def groups(size, extent, temporal_group):
    """Lists of the positions that see the same."""
    every = list(itertools.product(*map(range, size)))
    if extent in ("space", "causal"):
        keys = [p[:1] for p in every]
    elif extent == "time":
        keys = [p[1:] for p in every]
    elif temporal_group:
        keys = [(p[0] // temporal_group,) for p in every]
    else:
        keys = [()] * len(every)
    return {key: [p for p, k in zip(every, keys, strict=True) if k == key] for key in keys}


def keys_of(size, extent, temporal_group):
    """Lists of the keys that each of the groups sees."""
    found = groups(size, extent, temporal_group)
    if extent == "causal":
        every = list(itertools.product(*map(range, size)))
        return {(t,): [p for p in every if p[0] <= t] for (t,) in found}
    return found


def at(x: Tensor, positions) -> Tensor:
    """(B, C, ...) -> (B, C, len(positions))."""
    return x[(..., *map(list, zip(*positions, strict=True)))]


def straightforward(
    block: nl.NonLocalBlock,
    x: Tensor,
    *,
    subsample=None,
    position="before",
    extent="spacetime",
    temporal_group=None,
    pairwise="embedded_gaussian",
    scale="auto",
    heads=1,
) -> Tensor:
    """z = gamma norm(W_z y) + x from the block's numbers by the paper's names, options as words."""
    p = block.state_dict()
    whole, x = x, normalize(block.pre_norm, "pre_norm", p, x)

    def project(name, x):
        if f"{name}.weight" not in p:
            return x  # the plain Gaussian has no theta and phi
        z = torch.einsum("oc,bc...->bo...", p[f"{name}.weight"].flatten(1), x)
        if f"{name}.bias" in p:
            z = z + p[f"{name}.bias"].view(-1, *[1] * (x.ndim - 2))
        return z

    def pool(x):
        if subsample is None:
            return x
        kernel = [min(k, s) for k, s in zip(subsample, x.shape[2:], strict=True)]
        return MAX_POOL[x.ndim - 2](x, kernel)

    theta = project("theta", x)
    if position == "before":
        phi, g = project("phi", pool(x)), project("g", pool(x))
    else:
        phi, g = pool(project("phi", x)), pool(project("g", x))

    shrink = 1 if temporal_group is None or subsample is None else subsample[0]
    key_groups = keys_of(phi.shape[2:], extent, temporal_group and temporal_group // shrink)
    y = torch.zeros_like(project("g", x))
    for name, seers in groups(x.shape[2:], extent, temporal_group).items():
        keys = key_groups[name]
        split = (at(theta, seers), at(phi, keys), at(g, keys))
        for h, (t, f, v) in enumerate(zip(*(z.chunk(heads, 1) for z in split), strict=True)):
            s = torch.einsum("bdi,bdj->bij", t, f)
            if pairwise == "concatenation":
                w_theta, w_phi = (w.chunk(heads)[h] for w in p["w_f"].chunk(2))
                s = torch.einsum("d,bdi->bi", w_theta, t)[:, :, None]
                s = (s + torch.einsum("d,bdj->bj", w_phi, f)[:, None]).clamp(min=0) / f.shape[2]
            elif pairwise == "dot_product":
                s = s / f.shape[2]
            else:
                width = block.inner_channels / heads
                s = s * (width**-0.5 if scale == "auto" else scale or 1)
                s = s.exp() / s.exp().sum(2, keepdim=True)
            rows = torch.einsum("bij,bdj->bdi", s, v)
            y.chunk(heads, 1)[h][(..., *map(list, zip(*seers, strict=True)))] = rows

    z = normalize(block.norm, "norm", p, project("w_z", y))
    return z * p.get("gamma", 1) + whole


def normalize(norm, name, p, z):
    """z after one of the norms of a block, in evaluation mode."""
    shape = (-1, *[1] * (z.ndim - 2))
    if isinstance(norm, torch.nn.GroupNorm):
        groups_of_z = z.unflatten(1, (norm.num_groups, -1)).flatten(2)
        var, mean = torch.var_mean(groups_of_z, 2, correction=0, keepdim=True)
        z = ((groups_of_z - mean) / (var + 1e-5).sqrt()).view(z.shape)
    elif isinstance(norm, torch.nn.RMSNorm):
        z = z / (z.square().mean(1, keepdim=True) + 1e-6).sqrt()
    if f"{name}.running_mean" in p:
        mean, var = (p[f"{name}.running_{key}"].view(shape) for key in ("mean", "var"))
        z = (z - mean) / (var + 1.0000001e-5).sqrt()
    if f"{name}.weight" in p:
        z = z * p[f"{name}.weight"].view(shape)
    return z + p[f"{name}.bias"].view(shape) if f"{name}.bias" in p else z


def same(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def options_grid():
    """Every extent with the subsamplings and groups that it allows, for dims=3."""
    yield "spacetime", None, None
    yield "spacetime", (1, 2, 2), None
    yield "spacetime", (2, 2, 3), None
    yield "spacetime", None, 2
    yield "spacetime", (1, 2, 2), 2
    yield "spacetime", (1, 2, 2), 1
    yield "spacetime", (1, 2, 2), 4
    yield "space", None, None
    yield "space", (1, 2, 2), None
    yield "time", None, None
    yield "time", (2, 1, 1), None
    yield "causal", None, None
    yield "causal", (1, 2, 2), None


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pairwise", FORMS)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_block_starts_as_the_identity(dims, pairwise, norm, train):
    x = video(*SIZE[dims], dtype=torch.float32)
    for position, subsample in itertools.product(POSITIONS, (None, 2)):
        block = nl.NonLocalBlock(
            6, dims, pairwise, norm=norm, subsample=subsample, subsample_position=position
        )
        assert torch.equal(block.train(train)(x), x)


@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize("norm", NORMS)
def test_block_starts_as_the_identity_in_each_extent(norm, extent):
    x = video(4, 5, 6, dtype=torch.float32)
    assert torch.equal(nl.NonLocalBlock(6, extent=extent, norm=norm)(x), x)


@pytest.mark.parametrize("norm", NORMS)
def test_reset_brings_the_identity_back(norm):
    block = awake(6, norm=norm)
    x = video(2, 3, 3)
    assert not torch.equal(block(x), x)
    block.reset_parameters()
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("extent", "subsample", "group"), [*options_grid()])
@pytest.mark.parametrize("pairwise", FORMS)
def test_video_block_equals_the_straightforward_one(pairwise, extent, subsample, group, position):
    block = awake(
        6, 3, pairwise, subsample=subsample, subsample_position=position, extent=extent,
        temporal_group=group,
    )  # fmt: skip
    x = video(4, 5, 6)
    expected = straightforward(
        block, x, pairwise=pairwise, subsample=subsample, position=position, extent=extent,
        temporal_group=group,
    )  # fmt: skip
    assert (expected - x).abs().max() > 0.1
    same(block(x), expected)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("subsample", [None, 2])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pairwise", FORMS)
@pytest.mark.parametrize("dims", [1, 2])
def test_sequences_and_images(dims, pairwise, norm, subsample, position):
    block = awake(6, dims, pairwise, norm=norm, subsample=subsample, subsample_position=position)
    x = video(*SIZE[dims])
    factors = None if subsample is None else (subsample,) * dims
    same(
        block(x),
        straightforward(block, x, pairwise=pairwise, subsample=factors, position=position),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    pairwise=st.sampled_from(FORMS),
    layout=st.sampled_from([*options_grid()]),
    position=st.sampled_from(POSITIONS),
    heads=st.sampled_from([1, 2, 3]),
    inner=st.sampled_from([6, 12]),
    value=st.sampled_from([None, 6, 18]),
    norms=st.tuples(st.sampled_from(NORMS), st.sampled_from(NORMS)),
    w_z=st.booleans(),
    gate=st.booleans(),
    bias=st.booleans(),
    implementation=st.sampled_from(["auto", "reference"]),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last_3d]),
)
def test_every_combination_of_options_equals_the_straightforward_block(
    pairwise, layout, position, heads, inner, value, norms, w_z, gate, bias, implementation,
    memory_format,
):  # fmt: skip
    extent, subsample, group = layout
    (norm, pre_norm), x = norms, video(4, 3, 5)
    if not w_z:
        value, gate = None, gate or norm in ("frozen", None)
    block = awake(
        6, 3, pairwise, inner_channels=inner, value_channels=value, heads=heads,
        subsample=subsample, subsample_position=position, norm=norm, pre_norm=pre_norm, w_z=w_z,
        gate=gate, extent=extent, temporal_group=group, bias=bias, implementation=implementation,
    )  # fmt: skip
    expected = straightforward(
        block, x, pairwise=pairwise, subsample=subsample, position=position, extent=extent,
        temporal_group=group, heads=heads,
    )  # fmt: skip
    actual = block(x.contiguous(memory_format=memory_format))
    same(actual, expected)
    assert actual.is_contiguous(memory_format=memory_format)
    block.reset_parameters()
    assert torch.equal(block(x), x)
    (block(x) * x).sum().backward()  # a step can leave the identity
    gates = [gate and block.gamma, getattr(block.norm, "weight", None), w_z and block.w_z.weight]
    assert any(isinstance(p, torch.nn.Parameter) and p.grad.abs().max() > 0 for p in gates)


def test_temporal_groups_with_temporal_subsampling():
    block = awake(6, subsample=(2, 1, 1), temporal_group=4)
    x = video(8, 2, 3)
    same(block(x), straightforward(block, x, subsample=(2, 1, 1), temporal_group=4))


def test_training_mode_normalizes_with_the_batch():
    block = awake(6).train()
    x = video(2, 3, 3)
    with torch.no_grad():
        z = block(x) - x
    gamma, beta = block.norm.weight, block.norm.bias
    same(z.mean((0, 2, 3, 4)), beta.detach())
    same(z.var((0, 2, 3, 4), unbiased=False).sqrt(), gamma.detach().abs(), 1e-4)


@pytest.mark.parametrize("scale", [0.3, None])
@pytest.mark.parametrize("pairwise", ["gaussian", "embedded_gaussian"])
def test_scale_of_the_softmax_forms(pairwise, scale):
    block, x = awake(6, 2, pairwise, scale=scale), video(3, 3)
    same(block(x), straightforward(block, x, pairwise=pairwise, scale=scale))


def test_inner_width_is_half_by_default():
    assert [nl.NonLocalBlock(c).inner_channels for c in (1, 2, 7, 64)] == [1, 1, 3, 32]
    block, x = awake(6, inner_channels=5), video(2, 3, 3)
    assert block.g.weight.shape[:2] == (5, 6)
    same(block(x), straightforward(block, x))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("size", [(3, 1, 1), (1, 1, 1), (2, 1, 5), (3, 3, 7)])
def test_maps_smaller_than_the_factor_become_one(size, position):
    block = awake(6, subsample=(1, 2, 2), subsample_position=position)
    x = video(*size)
    same(block(x), straightforward(block, x, subsample=(1, 2, 2), position=position))


def test_pooling_before_and_after_the_projections_differ():
    before = awake(6, subsample=2, subsample_position="before")
    after = awake(6, subsample=2, subsample_position="after")
    after.load_state_dict(before.state_dict())
    x = video(4, 4, 4)
    assert (before(x) - after(x)).abs().max() > 0.1


def test_batch_of_one_is_a_slice_of_the_batch():
    block, x = awake(6, subsample=(1, 2, 2)), video(3, 4, 4)
    same(block(x[:1]), block(x)[:1])


@pytest.mark.parametrize("extent", EXTENTS)
def test_memory_layout_does_not_matter(extent):
    block, x = awake(6, extent=extent), video(3, 4, 5)
    expected = block(x)
    permuted = x.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    frames_first = x.transpose(1, 2).contiguous().transpose(1, 2)
    for y in (permuted, frames_first, x.contiguous(memory_format=torch.channels_last_3d)):
        assert not y.is_contiguous()
        same(block(y), expected)
    same(block.to(memory_format=torch.channels_last_3d)(permuted), expected)


def test_images_in_channels_last():
    block, x = awake(6, 2, subsample=2), video(4, 5)
    same(block(x.contiguous(memory_format=torch.channels_last)), block(x))


TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 0.15}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("pairwise", FORMS)
def test_module_in_lower_precision(pairwise, dtype, position):
    # weights and input are whole multiples of 1/8, the same numbers in every dtype
    block = awake(6, 3, pairwise, subsample=(1, 2, 2), subsample_position=position)
    for value in block.state_dict().values():
        if value.is_floating_point():
            value.copy_((value * 8).round().clamp(-8, 8) / 8)
    block.norm.running_var.fill_(1)
    x = (video(2, 4, 4) * 8).round() / 8
    expected = straightforward(block, x, pairwise=pairwise, subsample=(1, 2, 2), position=position)
    z = block.to(dtype)(x.to(dtype))
    assert z.dtype == dtype
    error = (z.double() - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCE[dtype]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("pairwise", FORMS)
def test_autocast_to_bfloat16(pairwise, position):
    block = awake(6, 3, pairwise, subsample=(1, 2, 2), subsample_position=position)
    x = video(2, 4, 4)
    expected = straightforward(block, x, pairwise=pairwise, subsample=(1, 2, 2), position=position)
    mask = torch.ones(2, 2, 4, 4, dtype=torch.bool)
    block = block.float()
    for real in (None, mask):
        with torch.autocast("cpu", torch.bfloat16):
            z = block(x.float(), mask=real)
        assert z.dtype == torch.float32
        assert (z.double() - expected).abs().max() / expected.abs().max() < 0.15
    z.sum().backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pairwise", FORMS)
def test_parameters_bear_the_papers_names(pairwise, norm):
    block = nl.NonLocalBlock(6, 2, pairwise, norm=norm)
    projections = ["g", "w_z"] if pairwise == "gaussian" else ["theta", "phi", "g", "w_z"]
    names = {f"{p}.{kind}" for p in projections for kind in ("weight", "bias")}
    names |= {"w_f"} if pairwise == "concatenation" else set()
    if norm is not None:
        names |= {"norm.weight"} if norm == "rms" else {"norm.weight", "norm.bias"}
    if norm == "batch":
        names |= {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert set(block.state_dict()) == names
    trained = {name for name, _ in block.named_parameters()}
    assert trained == {n for n in names if not n.startswith("norm.") or norm != "frozen"} - {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }


@pytest.mark.parametrize("pairwise", FORMS)
def test_without_biases(pairwise):
    block, x = awake(6, 3, pairwise, bias=False), video(2, 3, 3)
    assert {n for n in block.state_dict() if n.endswith("bias")} == {"norm.bias"}
    same(block(x), straightforward(block, x, pairwise=pairwise))


def test_new_projections_are_normal_with_the_official_deviation():
    torch.manual_seed(0)
    block = nl.NonLocalBlock(256)
    for conv in (block.theta, block.phi, block.g, block.w_z):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert conv.bias.abs().max() == 0
    assert block.norm.eps == 1.0000001e-5
    assert block.norm.momentum == 0.1  # Caffe2's 0.9


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pairwise", FORMS)
def test_gradients_reach_every_parameter(pairwise, norm):
    block = awake(6, 3, pairwise, norm=norm, subsample=(1, 2, 2))
    block(video(2, 4, 4)).square().sum().backward()
    # a bias of phi moves all scores of a row alike: no gradient in a softmax, by mathematics
    silent = {"phi.bias"} if pairwise == "embedded_gaussian" else set()
    for name, parameter in block.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().max() > 1e-9)
        assert reached == (name not in silent), name


@pytest.mark.parametrize("norm", NORMS)
def test_the_first_step_can_leave_the_identity(norm):
    block = nl.NonLocalBlock(6, norm=norm)
    x = video(2, 3, 3, dtype=torch.float32)
    (block(x) * x).sum().backward()
    gate = block.norm.weight if norm in ("batch", "group", "rms") else block.w_z.weight
    assert gate.grad.abs().max() > 0


@pytest.mark.parametrize("pairwise", FORMS)
def test_gradcheck(pairwise):
    block = awake(2, 3, pairwise, subsample=(1, 2, 2), norm="frozen")
    x = video(2, 2, 2, channels=2, batch=1).requires_grad_()
    names, values = zip(*block.named_parameters(), strict=True)

    def f(x, *values):
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(block, named, (x,))

    assert torch.autograd.gradcheck(f, (x, *values))


@pytest.mark.parametrize("pairwise", FORMS)
@pytest.mark.parametrize(
    ("extent", "group", "subsample", "shape"),
    [
        ("spacetime", None, (1, 2, 2), (2, 4 * 5 * 6, 4 * 2 * 3)),
        ("spacetime", 2, (1, 2, 2), (2 * 2, 2 * 5 * 6, 2 * 2 * 3)),
        ("space", None, (1, 2, 2), (2 * 4, 5 * 6, 2 * 3)),
        ("time", None, (2, 1, 1), (2 * 5 * 6, 4, 2)),
        ("causal", None, (1, 2, 2), (2, 4 * 5 * 6, 4 * 2 * 3)),
    ],
)
def test_affinity_has_a_row_for_each_position(pairwise, extent, group, subsample, shape):
    block = awake(6, 3, pairwise, extent=extent, temporal_group=group, subsample=subsample)
    x = video(4, 5, 6)
    a = block.affinity(x)
    assert a.shape == shape
    if pairwise.endswith("gaussian"):
        same(a.sum(2), torch.ones(shape[:2], dtype=torch.float64))
    chosen = torch.tensor([shape[1] - 1, 0])
    same(block.affinity(x, queries=chosen), a[:, chosen])


@pytest.mark.parametrize("pairwise", FORMS)
def test_affinity_has_the_rows_of_each_head(pairwise):
    block = awake(
        6, 3, pairwise, heads=3, inner_channels=6, value_channels=9, extent="causal",
        subsample=(1, 2, 2), norm=None,
    )  # fmt: skip
    x = video(3, 4, 5)
    a = block.affinity(x)
    assert a.shape == (2, 3, 3 * 4 * 5, 3 * 2 * 2)
    g = block.g(F.max_pool3d(x, (1, 2, 2))).flatten(2).unflatten(1, (3, -1))
    y = torch.einsum("bhij,bhdj->bhdi", a, g).flatten(1, 2).unflatten(2, (3, 4, 5))
    same(block(x), block.w_z(y) + x)
    chosen = torch.tensor([59, 0])
    same(block.affinity(x, queries=chosen), a[:, :, chosen])


@pytest.mark.parametrize("pairwise", FORMS)
def test_affinity_is_what_forward_weighs_g_with(pairwise):
    block = awake(6, 2, pairwise, subsample=2, norm=None)
    x = video(5, 6)
    a = block.affinity(x)
    g = block.g(F.max_pool2d(x, 2)).flatten(2)
    y = torch.einsum("bij,bdj->bdi", a, g).unflatten(2, (5, 6))
    same(block(x), block.w_z(y) + x)


@pytest.mark.parametrize(
    ("subsample", "size", "expected"),
    [
        (None, (4, 5, 6), (4, 5, 6)),
        (2, (4, 5, 6), (2, 2, 3)),
        ((1, 2, 2), (4, 28, 28), (4, 14, 14)),
        ((1, 2, 2), (4, 1, 1), (4, 1, 1)),
        ((1, 2, 2), [4, 1, 7], (4, 1, 3)),
    ],
)
def test_key_size_is_the_size_of_the_keys(subsample, size, expected):
    block = nl.NonLocalBlock(2, subsample=subsample)
    assert block.key_size(size) == expected
    keys = block.affinity(torch.zeros(1, 2, *size)).shape[2]
    assert keys == expected[0] * expected[1] * expected[2]


def test_repr_tells_the_options():
    text = repr(nl.NonLocalBlock(8, 2, "dot_product", subsample=2, subsample_position="after"))
    for word in ("8, dims=2", "'dot_product'", "subsample=(2, 2)", "'after'", "scale=None"):
        assert word in text


WRONG = [
    ({"dims": 4}, ["dims", "1, 2, 3", "4"]),
    ({"pairwise": "gausian"}, ["pairwise", "'gausian'", "did you mean 'gaussian'"]),
    ({"subsample_position": "befor"}, ["subsample_position", "'befor'", "'before', 'after'"]),
    ({"norm": "bach"}, ["norm", "'bach'", "'batch', 'frozen', 'group', 'rms', None"]),
    ({"pre_norm": "layer"}, ["pre_norm", "'layer'", "'batch', 'frozen', 'group', 'rms', None"]),
    ({"extent": "times"}, ["extent", "'times'", "'spacetime', 'space', 'time', 'causal'"]),
    ({"channels": 0}, ["channels", "at least 1", "0"]),
    ({"inner_channels": 0}, ["inner_channels", "at least 1", "0"]),
    ({"dims": 2, "extent": "space"}, ["extent", "'spacetime'", "dims=2", "'space'"]),
    ({"scale": 0.5, "pairwise": "dot_product"}, ["scale", "None or 'auto'", "0.5"]),
    ({"scale": "automatic"}, ["scale", "a number", "'automatic'"]),
    ({"subsample": 0}, ["subsample", "positive", "0"]),
    ({"subsample": (2, 2)}, ["subsample", "3 of them", "(2, 2)"]),
    ({"subsample": (2, 2, 2), "extent": "space"}, ["subsample[0]", "1", "(2, 2, 2)"]),
    ({"subsample": 2, "extent": "time"}, ["subsample[1:]", "(1, 1)", "(2, 2, 2)"]),
    ({"subsample": 2, "extent": "causal"}, ["subsample[0]", "1", "later frames", "(2, 2, 2)"]),
    ({"dims": 2, "extent": "causal"}, ["extent", "'spacetime'", "dims=2", "'causal'"]),
    ({"value_channels": 0}, ["value_channels", "at least 1", "0"]),
    ({"heads": 3}, ["heads", "inner_channels = 4", "value_channels = 4", "3"]),
    ({"heads": 3, "pairwise": "gaussian", "value_channels": 3}, ["heads", "channels = 8", "3"]),
    ({"heads": 0}, ["heads", "at least 1", "0"]),
    ({"w_z": False, "value_channels": 4}, ["value_channels", "8", "w_z=False", "4"]),
    ({"w_z": False, "norm": None}, ["gate=True", "'batch'", "identity", "norm=None"]),
    ({"w_z": False, "norm": "frozen"}, ["gate=True", "'rms'", "identity", "norm='frozen'"]),
    ({"temporal_group": 2, "extent": "causal"}, ["temporal_group", "'spacetime'", "'causal'"]),
    ({"temporal_group": 0}, ["temporal_group", "at least 1", "0"]),
    ({"temporal_group": 2, "dims": 2}, ["temporal_group", "dims=3", "dims=2"]),
    ({"temporal_group": 2, "extent": "time"}, ["temporal_group", "extent='spacetime'", "'time'"]),
    ({"temporal_group": 3, "subsample": (2, 1, 1)}, ["temporal_group", "subsample"]),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_wrong_option_is_named_with_what_is_allowed(change, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are the check)
        nl.NonLocalBlock(**({"channels": 8} | change))
    assert [word for word in words if word not in str(error.value)] == []


REAL = torch.ones(2, 4, 3, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("x", "mask", "words"),
    [
        (torch.zeros(2, 8, 3, 3), None, ["x must", "(B, 8, T, H, W)", "(2, 8, 3, 3)"]),
        (torch.zeros(2, 4, 4, 3, 3), None, ["x must", "(B, 8, T, H, W)", "(2, 4, 4, 3, 3)"]),
        (torch.zeros(2, 8, 3, 3, 3), None, ["temporal_group=2", "divide", "3"]),
        (torch.zeros(2, 8, 4, 3, 3), REAL[0], ["mask", "(2, 4, 3, 3)", "(4, 3, 3)"]),
        (torch.zeros(2, 8, 4, 3, 3), REAL.float(), ["mask", "booleans", "float32"]),
    ],
)
def test_wrong_input_is_named_with_what_is_allowed(x, mask, words):
    block = nl.NonLocalBlock(8, temporal_group=2)
    for call in (block, block.affinity):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            call(x, mask=mask)
        assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_output_has_the_memory_format_of_the_input(memory_format):
    # else the next convolution of a pretrained network rounds otherwise than without the block
    x = torch.randn(2, 8, 5, 6).contiguous(memory_format=memory_format)
    for options in ({}, {"norm": None}, {"subsample": 2}):
        z = nl.NonLocalBlock(8, dims=2, **options)(x)
        assert z.stride() == x.stride()
