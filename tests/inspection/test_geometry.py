"""Where positions lie, against receptive fields found by gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nonlocalnet as nl
from nonlocalnet.inspection.analysis import analyse
from nonlocalnet.inspection.geometry import Axis, find, input_grid, lift, pooled, traced

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def centre_of_field(net, size, position):
    """The middle of the pixels that an output position depends on, per axis: first and last one."""
    x = torch.zeros(1, 1, *size, dtype=torch.float64, requires_grad=True)
    net(x)[(0, 0, *position)].backward()
    used = x.grad[0, 0].nonzero()
    return [(int(a) + int(b) + 1) / 2 for a, b in zip(used.amin(0), used.amax(0), strict=True)]


def ones(net):
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    return net.double()


def traced_grid(net, size):
    with torch.no_grad(), traced(net, size) as grids:
        y = net(torch.zeros(1, 1, *size, dtype=torch.float64))
    return find(grids, y.shape[2:], size), tuple(y.shape[2:])


layer = st.tuples(
    st.sampled_from(["conv", "pool"]),
    st.integers(1, 5),  # kernel
    st.integers(1, 3),  # stride
    st.integers(0, 2),  # padding
    st.integers(1, 2),  # dilation
)


@settings(max_examples=60, deadline=None)
@given(st.lists(layer, min_size=1, max_size=3))
def test_centres_are_those_of_receptive_fields(layers):
    modules, length = [], 61
    for kind, kernel, stride, padding, dilation in layers:
        if kind == "conv":
            modules.append(nn.Conv1d(1, 1, kernel, stride, padding, dilation, bias=False))
        else:
            modules.append(nn.AvgPool1d(kernel, stride, min(padding, kernel // 2)))
    net = ones(nn.Sequential(*modules))
    (axis,), (count,) = traced_grid(net, (length,))
    assert axis.count == count
    i = count // 2
    x = torch.zeros(1, 1, length, dtype=torch.float64, requires_grad=True)
    net(x)[0, 0, i].backward()
    used = x.grad[0, 0].nonzero()
    first, last = int(used.min()), int(used.max())
    if first > 0 and last < length - 1:  # else the border cuts the field
        assert axis.start + i * axis.stride == (first + last + 1) / 2


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_each_axis_has_its_own_stride_and_padding(dims):
    kernels, strides, paddings = (5, 3, 7)[:dims], (2, 1, 3)[:dims], (1, 1, 2)[:dims]
    conv = CONV[dims](1, 1, kernels, strides, paddings, bias=False)
    net = ones(nn.Sequential(conv, POOL[dims](2)))
    size = (30, 21, 40)[:dims]
    grid, out = traced_grid(net, size)
    position = tuple(n // 2 for n in out)
    found = [axis.start + i * axis.stride for axis, i in zip(grid, position, strict=True)]
    assert found == centre_of_field(net, size, position)


def test_same_padding():
    net = ones(nn.Sequential(nn.Conv2d(1, 1, 5, padding="same", bias=False), nn.Conv2d(1, 1, 3)))
    nn.init.zeros_(net[1].bias)
    grid, _ = traced_grid(net, (20, 20))
    assert [axis.start for axis in grid] == [1.5, 1.5]


def test_a_residual_network_lies_where_its_main_path_lies():
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.resnet18()
    nl.add_non_local(net, ["layer2.1", "layer3.0"])
    blocks = analyse(net, torch.rand(3, 96, 128)).blocks
    # 7x7 stride 2 pad 3, 3x3 stride 2 pad 1, 3x3 stride 2 pad 1: all centred on pixel 0, p + 0.5
    strides = [[axis.stride for axis in block.queries] for block in blocks.values()]
    starts = [[axis.start for axis in block.queries] for block in blocks.values()]
    assert strides == [[8, 8], [16, 16]]
    assert starts == [[0.5, 0.5]] * 2


def test_the_papers_networks():
    net = nl.create_model("i3d_tiny_nl2", num_classes=2, clip="8x1", crop=32)
    block = analyse(net, torch.rand(3, 8, 32, 40)).block("res3.non_local0")
    # conv1 is centred on every second pixel from 0.5; pool1, 3 wide without padding, on the second
    # of three of these, 0.5 + 2; pool2 between the first two frames; res3 on every second of both
    assert block.queries[0] == Axis(1, 2, 4)
    assert block.queries[1] == Axis(2.5, 8, 4)
    assert block.queries[2] == Axis(2.5, 8, 5)
    # keys: 2 x 2 positions, whose centre lies half a stride further; the fifth column has none
    assert block.keys == (Axis(1, 2, 4), Axis(6.5, 16, 2), Axis(6.5, 16, 2))


def test_cells_and_pixels():
    axis = Axis(2.5, 8, 3)
    assert axis.cell(1) == (6.5, 14.5)
    # pixel p has its middle at p + 0.5; 6 is the first in cell 1, 22 the last in cell 2
    assert axis.covering(25) == [0] * 6 + [1] * 8 + [2] * 8 + [-1] * 3
    assert [axis.nearest(x) for x in (-5, 6.4, 6.6, 99)] == [0, 0, 1, 2]


def test_unknown_ways_are_laid_evenly():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Upsample(size=(5, 4)))
    with torch.no_grad(), traced(net, (20, 8)) as grids:
        net(torch.zeros(1, 1, 20, 8))
    assert find(grids, (5, 4), (20, 8)) == (Axis(2, 4, 5), Axis(1, 2, 4))


def test_pooled_axes_shorter_than_their_factor():
    assert pooled(input_grid((1, 5)), (2, 2), (1, 2)) == (Axis(0.5, 1, 1), Axis(1, 2, 2))


def test_images_and_sequences_on_a_picture():
    image = lift((Axis(1, 2, 4), Axis(2, 4, 3)), (8, 12), (1, 8, 12))
    assert image == (Axis(0.5, 1, 1), Axis(1, 2, 4), Axis(2, 4, 3))
    sequence = lift((Axis(1, 2, 5),), (10,), (1, 96, 640))
    assert sequence == (Axis(0.5, 1, 1), Axis(48, 96, 1), Axis(64, 128, 5))
