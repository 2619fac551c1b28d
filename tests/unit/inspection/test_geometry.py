"""Where positions lie, against receptive fields found by gradients."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import nonlocalnet as nl
from nonlocalnet.inspection.analysis import analyze
from nonlocalnet.inspection.geometry import Axis, find, input_grid, lift, pooled, traced

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def center_of_field(net, size, position):
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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(layer, min_size=1, max_size=3))
def test_centers_are_those_of_receptive_fields(layers):
    modules, length, left = [], 61, 61
    width, apart = 1, 1  # of the whole field, and of neighbors, in pixels
    for kind, kernel, stride, padding, dilation in layers:
        if kind == "conv":
            modules.append(nn.Conv1d(1, 1, kernel, stride, padding, dilation, bias=False))
        else:
            padding, dilation = min(padding, kernel // 2), 1
            modules.append(nn.AvgPool1d(kernel, stride, padding))
        left = (left + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        assume(left > 0)  # a window larger than its map gives none
        width, apart = width + dilation * (kernel - 1) * apart, apart * stride
    net = ones(nn.Sequential(*modules))
    (axis,), (count,) = traced_grid(net, (length,))
    assert axis.count == count
    i = count // 2
    x = torch.zeros(1, 1, length, dtype=torch.float64, requires_grad=True)
    net(x)[0, 0, i].backward()
    used = x.grad[0, 0].nonzero()
    first, last = int(used.min()), int(used.max())
    if last - first + 1 == width:  # else padding, here or in between, cuts the field
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
    assert found == center_of_field(net, size, position)


def test_same_padding():
    net = ones(nn.Sequential(nn.Conv2d(1, 1, 5, padding="same", bias=False), nn.Conv2d(1, 1, 3)))
    nn.init.zeros_(net[1].bias)
    grid, _ = traced_grid(net, (20, 20))
    assert [axis.start for axis in grid] == [1.5, 1.5]


def test_a_residual_network_lies_where_its_main_path_lies():
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.resnet18()
    nl.add_non_local(net, ["layer2.1", "layer3.0"])
    blocks = analyze(net, torch.rand(3, 96, 128)).blocks
    # 7x7 stride 2 pad 3, 3x3 stride 2 pad 1, 3x3 stride 2 pad 1: all centerd on pixel 0, p + 0.5
    strides = [[axis.stride for axis in block.queries] for block in blocks.values()]
    starts = [[axis.start for axis in block.queries] for block in blocks.values()]
    assert strides == [[8, 8], [16, 16]]
    assert starts == [[0.5, 0.5]] * 2


def test_the_papers_networks():
    net = nl.create_model("i3d_tiny_nl2", num_classes=2, clip="8x1", crop=32)
    block = analyze(net, torch.rand(3, 8, 32, 40)).block("res3.non_local0")
    # conv1 is centerd on every second pixel from 0.5; pool1, 3 wide without padding, on the second
    # of three of these, 0.5 + 2; pool2 between the first two frames; res3 on every second of both
    assert block.queries[0] == Axis(1, 2, 4)
    assert block.queries[1] == Axis(2.5, 8, 4)
    assert block.queries[2] == Axis(2.5, 8, 5)
    # keys: 2 x 2 positions, whose center lies half a stride further; the fifth column has none
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


class Conducting(nn.Module):
    """A layer that lets all of its window through: a maximum or a mean becomes a sum."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        dims = x.ndim - 2
        words = [getattr(self.layer, name, 1) for name in ("stride", "padding", "dilation")]
        kernel, *words = [
            (w,) * dims if isinstance(w, int) else tuple(w)
            for w in (self.layer.kernel_size, *words)
        ]
        conv = getattr(nn.functional, f"conv{dims}d")
        return conv(x, x.new_ones(x.shape[1], 1, *kernel), None, *words, groups=x.shape[1])


def conducting(net):
    """Make every input of every window count, so that gradients show whole receptive fields."""
    pools = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, pools):
                setattr(parent, name, Conducting(child))
            elif isinstance(child, nl.NonLocalBlock | nn.BatchNorm3d):
                setattr(parent, name, nn.Identity())
    return ones(net)


def whole_fields(run, size, count, width, axis, channels=1):
    """Centers along an axis of the fields that the border does not cut: {position: center}."""
    found = {}
    x = torch.ones(1, channels, *size, dtype=torch.float64, requires_grad=True)
    y = run(x).sum(1)[0]
    for i in range(count[axis]):
        position = [n // 2 for n in count]
        position[axis] = i
        (gradient,) = torch.autograd.grad(y[tuple(position)], x, retain_graph=True)
        used = gradient[0].sum(0).nonzero()[:, axis]
        if not len(used):  # it lies in the padding alone
            continue
        first, last = int(used.min()), int(used.max())
        if last - first + 1 == width:
            found[i] = (first + last + 1) / 2
    return found


WINDOW = st.integers(1, 5).flatmap(
    lambda k: st.tuples(st.just(k), st.integers(1, 3), st.integers(0, k // 2), st.integers(1, 3))
)


@pytest.mark.parametrize("dims", [1, 2, 3])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_networks_with_maxima_at_every_position(dims, data):
    size = (41,) if dims == 1 else (19, 23) if dims == 2 else (9, 12, 14)
    modules, width, jump, count = [], [1] * dims, [1] * dims, list(size)
    for _ in range(data.draw(st.integers(1, 4 - dims // 2))):
        words = data.draw(st.tuples(*[WINDOW] * dims))
        kernel, stride, padding, dilation = map(tuple, zip(*words, strict=True))
        if data.draw(st.booleans()):
            pool = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims]
            layer = pool(kernel, stride, padding, dilation)
        else:  # up to half a window, as pooling: a map that is padded further may grow
            padding = tuple(min(p, (k - 1) // 2) for p, k in zip(padding, kernel, strict=True))
            layer = CONV[dims](1, 1, kernel, stride, padding, dilation, bias=False)
        after = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(count, kernel, stride, padding, dilation, strict=True)
        ]
        if min(after) < 1 or any(a > b for a, b in zip(after, count, strict=True)):
            continue
        if after == count and any(k % 2 == 0 for k in kernel):
            continue
        modules.append(layer)
        taken = zip(width, jump, kernel, dilation, strict=True)
        width = [w + j * d * (k - 1) for w, j, k, d in taken]
        jump = [j * s for j, s in zip(jump, stride, strict=True)]
        count = after
    net = ones(nn.Sequential(*modules))
    grid, out = traced_grid(net, size)
    assert out == tuple(count)
    conducting(net)
    for axis in range(dims):
        found = whole_fields(net, size, count, width[axis], axis)
        assert found == {i: grid[axis].start + i * grid[axis].stride for i in found}


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 1, 4, 2, bias=False)
        self.branch = nn.Conv2d(1, 1, 5, 2, 2, bias=False)
        self.shortcut = nn.Conv2d(1, 1, 1, 2, bias=False)
        self.last = nn.Conv2d(1, 1, 2, bias=False)

    def forward(self, x):
        x = self.stem(x)
        return self.last(self.branch(x) + self.shortcut(x))


def test_a_shortcut_lies_where_its_branch_lies():
    net, size = ones(Shortcut()), (37, 42)
    grid, count = traced_grid(net, size)
    for axis in (0, 1):  # 4 pixels, 4 steps of 2, 1 of 4
        found = whole_fields(net, size, count, 4 + 4 * 2 + 4, axis)
        assert len(found) > 3
        assert found == {i: grid[axis].start + i * grid[axis].stride for i in found}


@pytest.mark.parametrize("name", ["c2d_tiny", "i3d_tiny_nl2"])
def test_every_stage_of_the_tiny_networks_by_gradients(name):
    net, size = nl.create_model(name, num_classes=2, clip="8x1", crop=32).eval(), (8, 64, 73)
    with torch.no_grad(), traced(net, size) as grids:
        maps = {}
        net.features(torch.zeros(1, 3, *size), maps)
    shapes = {stage: tuple(maps[stage].shape[2:]) for stage in ("pool1", "res3")}
    conducting(net)
    # conv1 is 3 wide, pool1 adds 2 of its steps of 2; res2's and res3's 3 x 3 add 2 of 4 each
    # (res3's second one, after the stride, 2 of 8)
    for stage, width in {"pool1": 3 + 4, "res3": 3 + 4 + 8 + 8 + 16}.items():

        def run(x, stage=stage):
            kept = {}
            net.features(x, kept)
            return kept[stage]

        for axis in (1, 2):
            found = whole_fields(run, size, shapes[stage], width, axis, channels=3)
            grid = grids[shapes[stage]][axis]
            assert found
            assert found == {i: grid.start + i * grid.stride for i in found}


@pytest.mark.parametrize(
    ("name", "clip", "time"),
    [
        # pool2 puts two frames together: between frames 0 and 1 the first, then every second
        ("c2d_r50_nl5", "8x8", Axis(1, 2, 4)),
        ("i3d_r50_nl5", "8x8", Axis(1, 2, 4)),
        # conv1 takes every second frame (0.5), pool1 two of these (1.5), pool2 two of those (3.5)
        ("i3d_r50_nl5", "32x2", Axis(3.5, 8, 4)),
    ],
)
def test_the_official_table(name, clip, time):
    with torch.device("meta"):
        net = nl.create_model(name, clip=clip).eval()
    size = (int(clip.split("x")[0]), 224, 224)
    with torch.no_grad(), traced(net, size) as grids:
        net.features(torch.zeros(1, 3, *size, device="meta"))
    # conv1 7x7/2, padding 3: 0.5 and every second pixel; pool1 3x3/2 without padding: 2.5, 6.5, ...
    # 55 of these; each stage takes every second one: 28, 14, 7
    assert grids[size[0] // (4 if clip == "32x2" else 1), 55, 55][1] == Axis(2.5, 4, 55)
    for stride, count in ((8, 28), (16, 14), (32, 7)):
        assert grids[4, count, count] == (time, *[Axis(2.5, stride, count)] * 2)


def test_hooks_are_taken_off_after_an_error():
    net = nn.Sequential(nn.Conv2d(1, 1, 3))
    with pytest.raises(RuntimeError), traced(net, (9, 9)):
        net(torch.zeros(1, 2, 9, 9))
    assert not net[0]._forward_hooks
