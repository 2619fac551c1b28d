import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nonlocalnet.blocks.bottleneck import Bottleneck


def awake(*arguments, **options) -> Bottleneck:
    block = Bottleneck(*arguments, **options).double().eval()
    rng = torch.Generator().manual_seed(0)
    for name, value in block.state_dict().items():
        if value.is_floating_point():
            fresh = torch.randn(value.shape, generator=rng, dtype=torch.float64)
            value.copy_(fresh.abs() + 0.5 if name.endswith("running_var") else 0.3 * fresh)
    return block


def functional(p, x, stride, kernel_a, kernel_b, dilation=1):
    """relu(shortcut + c(b(a(x)))): kx1x1, k'x3x3 with the stride, 1x1x1 (sheet, section 2)."""

    def norm(name, x):
        stats = (p[f"{name}.running_mean"], p[f"{name}.running_var"])
        return F.batch_norm(x, *stats, p[f"{name}.weight"], p[f"{name}.bias"], eps=1.0000001e-5)

    strides = (1, stride, stride)
    y = F.conv3d(x, p["conv_a.weight"], padding=(kernel_a // 2, 0, 0))
    y = F.conv3d(
        norm("norm_a", y).relu(),
        p["conv_b.weight"],
        stride=strides,
        padding=(kernel_b // 2, dilation, dilation),
        dilation=(1, dilation, dilation),
    )
    y = norm("norm_c", F.conv3d(norm("norm_b", y).relu(), p["conv_c.weight"]))
    if "shortcut.conv.weight" in p:
        x = norm("shortcut.norm", F.conv3d(x, p["shortcut.conv.weight"], stride=strides))
    return (x + y).relu()


@pytest.mark.parametrize("kernels", [(1, 1), (3, 1), (1, 3)])
@pytest.mark.parametrize(
    ("in_channels", "stride", "shape"),
    [(8, 1, (2, 8, 3, 5, 6)), (4, 1, (2, 8, 3, 5, 6)), (8, 2, (2, 8, 3, 3, 3))],
)
def test_equals_the_functional_one(in_channels, stride, shape, kernels):
    block = awake(in_channels, 3, 8, stride=stride, kernel_a=kernels[0], kernel_b=kernels[1])
    x = torch.randn(2, in_channels, 3, 5, 6, dtype=torch.float64)
    given = x.clone()
    z = block(x)
    assert z.shape == shape
    assert torch.equal(x, given)  # the ReLUs in place leave the input alone
    torch.testing.assert_close(z, functional(block.state_dict(), x, stride, *kernels))
    assert (z == 0).any()
    assert (z >= 0).all()


def test_dilated_equals_the_functional_one():
    block = awake(8, 3, 8, kernel_a=3, dilation=2)
    x = torch.randn(2, 8, 3, 6, 7, dtype=torch.float64)
    expected = functional(block.state_dict(), x, 1, 3, 1, dilation=2)
    torch.testing.assert_close(block(x), expected)
    assert block(x).shape == x.shape


def test_shortcut_projects_only_where_the_shape_changes():
    assert Bottleneck(8, 2, 8).shortcut is None
    assert Bottleneck(4, 2, 8).shortcut is not None
    assert Bottleneck(8, 2, 8, stride=2).shortcut is not None


def test_convolutions_have_the_kernels_of_the_table_and_no_bias():
    block = Bottleneck(16, 4, 16, stride=2, kernel_a=3, kernel_b=3)
    sizes = [c.kernel_size for c in (block.conv_a, block.conv_b, block.conv_c)]
    assert sizes == [(3, 1, 1), (3, 3, 3), (1, 1, 1)]
    assert [c.stride for c in (block.conv_a, block.conv_b)] == [(1, 1, 1), (1, 2, 2)]
    assert not [name for name in block.state_dict() if "conv" in name and name.endswith("bias")]


def test_frozen_bottleneck_trains_convolutions_only():
    block = Bottleneck(4, 2, 8, norm="frozen")
    assert {name for name, _ in block.named_parameters()} == {
        "conv_a.weight",
        "conv_b.weight",
        "conv_c.weight",
        "shortcut.conv.weight",
    }
    assert block(torch.randn(1, 4, 2, 3, 3)).shape == (1, 8, 2, 3, 3)


@pytest.mark.parametrize("name", ["conv_a", "norm_a", "norm_b", "norm_c", "shortcut.norm"])
def test_hooks_see_what_the_modules_gave_and_its_gradient(name):
    block = awake(4, 3, 8)
    x = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    expected, kept, gradients = block(x), [], []
    module = block.get_submodule(name)
    module.register_forward_hook(lambda *given: kept.append((given[2], given[2].clone())))
    module.register_full_backward_hook(lambda *given: gradients.append(given[2][0]))
    z = block(x)
    assert torch.equal(z, expected)
    z.sum().backward()
    assert torch.equal(*kept[0])  # the ReLU after it wrote elsewhere
    assert len(gradients) == 1


def test_a_norm_taken_away_leaves_the_convolutions_result_alone():
    block, kept = awake(4, 3, 8), []
    block.norm_a = nn.Identity()
    block.conv_a.register_forward_hook(lambda *given: kept.append(given[2]))
    block(torch.randn(2, 4, 3, 5, 6, dtype=torch.float64))
    assert kept[0].min() < 0
