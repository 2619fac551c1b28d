"""Our convolution and batch norm against torch's, in float64 and of every layout."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nonlocalnet.blocks.convolution import Conv3d, conv3d
from nonlocalnet.blocks.norm import BatchNorm3d

LAYOUTS = {
    "default": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last_3d),
    "a slice": lambda x: torch.cat([x, x], dim=4)[..., : x.shape[4]],
}
KERNELS = [(1, 1, 1), (3, 1, 1), (5, 1, 1), (2, 1, 1), (1, 3, 3), (1, 2, 3), (3, 3, 3)]
STRIDES = [(1, 1, 1), (1, 2, 2), (2, 1, 1)]


def paddings(kernel):
    same = tuple(k // 2 for k in kernel)
    return {same, (0, 0, 0), (same[0], 0, 0), (same[0], 1, 0)}


def agree(ours, theirs, *tensors):
    """Values and the gradients of all tensors, to rounding of some hundred terms of size 1."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    found, expected = ours(*leaves), theirs(*leaves)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for y, z in zip(
        torch.autograd.grad(found.pow(2).sum(), leaves),
        torch.autograd.grad(expected.pow(2).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(y, z, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_torchs_convolution(kernel, layout):
    rng = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(4, 3, *kernel, generator=rng).double(), torch.randn(4).double()
    sizes = [(2, 3, 5, 7, 6), (1, 3, 4, 5, 5), (1, 3, 1, 3, 3), (2, 3, 2, 4, 3)]
    for stride, padding, size in itertools.product(STRIDES, paddings(kernel), sizes):
        if any(n + 2 * p < k for n, p, k in zip(size[2:], padding, kernel, strict=True)):
            continue
        x = LAYOUTS[layout](torch.randn(size, generator=rng).double())
        agree(
            lambda *t, s=stride, p=padding: conv3d(*t, stride=s, padding=p),
            lambda *t, s=stride, p=padding: F.conv3d(*t, stride=s, padding=p),
            x,
            weight,
            bias,
        )


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1), (3, 3, 3)])
@pytest.mark.parametrize("dilation", [(1, 2, 2), (2, 1, 1), (1, 1, 3)])
def test_dilated_equals_torchs_convolution(kernel, dilation):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 7, 7, generator=rng).double()
    weight = torch.randn(4, 3, *kernel, generator=rng).double()
    for stride, padding in itertools.product(STRIDES, [(1, 2, 2), (1, 0, 0)]):
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        agree(
            lambda *t, o=options: conv3d(*t, **o),
            lambda *t, o=options: F.conv3d(*t, **o),
            x,
            weight,
        )


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 1, 1), (1, 3, 3)])
def test_one_channel_and_no_clips(kernel):
    padding = tuple(k // 2 for k in kernel)
    for size in [(2, 1, 3, 4, 5), (0, 1, 3, 4, 5)]:
        x, weight = torch.randn(size).double(), torch.randn(1, 1, *kernel).double()
        agree(
            lambda *t: conv3d(*t, padding=padding),
            lambda *t: F.conv3d(*t, padding=padding),
            x,
            weight,
        )


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 1, 1), (1, 3, 3)])
def test_gradients_and_their_gradients(kernel):
    padding = tuple(k // 2 for k in kernel)
    x = torch.randn(1, 2, 3, 2, 3).double().requires_grad_()
    weight = torch.randn(2, 2, *kernel).double().requires_grad_()

    def function(x, weight):
        return conv3d(x, weight, padding=padding)

    assert torch.autograd.gradcheck(function, (x, weight))
    assert torch.autograd.gradgradcheck(function, (x, weight))


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 1, 1), (1, 3, 3), (3, 3, 3)])
def test_results_lie_channels_last(kernel):
    for batch in (1, 2):
        y = conv3d(torch.randn(batch, 4, 3, 5, 6), torch.randn(8, 4, *kernel))
        assert y.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 1, 1), (1, 3, 3)])
def test_autocast_gives_its_dtype_and_is_at_least_as_exact_as_torchs(kernel):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 16, 3, 6, 6), torch.randn(8, 16, *kernel)
    exact = F.conv3d(x.double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        y, z = conv3d(x, weight), F.conv3d(x, weight)
    assert y.dtype == z.dtype == torch.bfloat16
    # one more rounding of the result, of half a bit in 2^-8, whichever way each falls
    assert (y - exact).abs().max() <= (z - exact).abs().max() + 2**-9 * exact.abs().max()


def test_module_has_the_parameters_of_torchs_and_no_bias_unless_asked():
    module = Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1))
    assert {k: v.shape for k, v in module.state_dict().items()} == {"weight": (4, 3, 1, 3, 3)}
    assert set(Conv3d(3, 4, 1, bias=True).state_dict()) == {"weight", "bias"}
    with torch.device("meta"):
        assert Conv3d(3, 4, (3, 1, 1))(torch.empty(1, 3, 4, 5, 5)).shape == (1, 4, 2, 5, 5)


@pytest.mark.parametrize(
    "change",
    [
        {"dilation": (1, 2, 2), "padding": (0, 2, 2)},
        {"padding": "same"},
        {"padding_mode": "circular", "_reversed_padding_repeated_twice": [1, 1, 1, 1, 0, 0]},
    ],
)
def test_what_is_changed_after_it_was_made_takes_effect(change):
    ours = Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1)).double()
    theirs = nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1), bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    for module in (ours, theirs):
        for name, value in change.items():
            setattr(module, name, value)
    x = torch.randn(2, 3, 4, 6, 7).double()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 4, 3, 5, 6), (1, 4, 1, 3, 3)])
def test_batch_norm_equals_torchs(shape, layout):
    torch.manual_seed(0)
    ours, theirs = BatchNorm3d(4).double(), nn.BatchNorm3d(4).double()
    for value in (ours.weight, ours.bias):
        nn.init.normal_(value)
    theirs.load_state_dict(ours.state_dict())
    for _ in range(2):
        agree(ours, theirs, LAYOUTS[layout](torch.randn(shape).double()))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-12)
    agree(ours.eval(), theirs.eval(), LAYOUTS[layout](torch.randn(shape).double()))


def test_batch_norm_takes_clips_alone():
    with pytest.raises(ValueError, match="5D"):
        BatchNorm3d(4)(torch.randn(2, 4, 5, 6))


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 1, 1), (1, 3, 3)])
def test_gradients_per_sample_are_those_of_a_loop(kernel):
    padding = tuple(k // 2 for k in kernel)
    clips, weight = torch.randn(3, 1, 2, 4, 5, 6).double(), torch.randn(4, 2, *kernel).double()

    def loss(weight, x):
        return conv3d(x, weight, padding=padding).square().sum()

    every = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, clips)
    for x, found in zip(clips, every, strict=True):
        expected = torch.func.grad(lambda w, x=x: F.conv3d(x, w, padding=padding).square().sum())
        torch.testing.assert_close(found, expected(weight), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [(1, 1, 1), (1, 3, 3)])
def test_exports_for_any_number_of_clips_and_compiles_as_one_graph(kernel):
    module = nn.Sequential(Conv3d(2, 4, kernel, padding=tuple(k // 2 for k in kernel)))
    module.append(BatchNorm3d(4)).eval()
    x = torch.randn(2, 2, 4, 5, 6)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module, (x,), dynamic_shapes=({**batch},))
    for clips in (1, 3):
        y = torch.randn(clips, 2, 4, 5, 6)
        torch.testing.assert_close(program.module()(y), module(y))
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))
