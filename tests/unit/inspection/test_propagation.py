"""Masks and points carried through videos whose motion is known, and a dense float64 reference."""

import numpy as np
import pytest
import torch
from torch import nn

import nonlocalnet as nl

SHARP = 200.0  # scale of a comparison in which equal features win


class Directions(nn.Module):
    """Features of length one, so that a position is most like itself."""

    def __init__(self, stride=1, colors=16):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(colors, 24, stride, stride, bias=False)
        self.unit = nn.Identity()

    def forward(self, x):
        return self.unit(nn.functional.normalize(self.conv(x), dim=1))


def moving(stride=1, frames=4, size=(12, 16)):
    """Noise that moves by `stride` pixels right and down from frame to frame: (16, T, H, W)."""
    torch.manual_seed(1)
    far = stride * frames
    world = torch.randn(16, size[0] + far, size[1] + far)
    views = [
        world[:, far - stride * t :, far - stride * t :][:, : size[0], : size[1]]
        for t in range(frames)
    ]
    return torch.stack(views, 1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("start", [(3.0, 2.0), (4.5, 3.25)])
def test_a_point_follows_an_exact_translation(stride, start):
    network = Directions(stride)
    found = nl.propagate(network, moving(stride), points=[start], layer="unit", scale=SHARP)
    expected = torch.tensor(start) + stride * torch.arange(4.0).unsqueeze(1)
    torch.testing.assert_close(found.points[:, 0], expected, atol=0.02, rtol=0)
    assert (found.confidence > 0.9).all()
    assert not found.lost.any()


def test_a_mask_follows_an_exact_translation():
    mask = torch.zeros(12, 16, dtype=torch.long)
    mask[2:5, 3:8], mask[6:8, 4:6] = 1, 2
    network = Directions()
    found = nl.propagate(network, moving(), mask, layer="unit", scale=SHARP)
    assert found.points is None
    for t in range(4):
        assert torch.equal(found.mask(t)[t:, t:], mask[: 12 - t, : 16 - t])
    with pytest.raises(ValueError, match="a mask is not lost"):
        _ = found.lost
    shares = nn.functional.one_hot(mask).permute(2, 0, 1).double().numpy()
    same = nl.propagate(network, moving(), shares, layer="unit", scale=SHARP)
    assert torch.equal(same.maps, found.maps)


def test_a_point_that_leaves_is_lost_and_stays_where_it_was():
    frames = torch.zeros(3, 5, 6, 8)
    frames[1] = 1  # the ground, unlike the thing that leaves it
    for t in range(3):
        frames[:, t, 2, 5 + t] = torch.tensor([1.0, 0, 0])
    network = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
    nn.init.dirac_(network[0].weight)
    found = nl.propagate(network, frames, points=[(5, 2)], layer="0", scale=SHARP, top=1)
    assert found.points[:, 0].tolist() == [[5, 2], [6, 2], [7, 2], [7, 2], [7, 2]]
    assert found.lost[:, 0].tolist() == [False, False, False, True, True]


def dense(network, frames, mask, scale, top, references, radius):
    """Propagate with the whole N x M matrix, in float64."""
    x = network.double()(frames.double().transpose(0, 1)).flatten(2).transpose(1, 2)  # T, N, d
    _, _, height, width = frames.shape
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    near = torch.cdist(places, places) <= (radius or torch.inf)
    labels = [nn.functional.one_hot(mask).double().flatten(0, 1)]
    for t in range(1, len(x)):
        seen = [0, *range(max(t - references, 1), t)]
        a = torch.cat([x[t] @ x[s].T for s in seen], 1) * scale
        allowed = torch.cat([torch.ones_like(near) if s == 0 else near for s in seen], 1)
        a = a.masked_fill(~allowed, -torch.inf)
        if top is not None:
            kept = torch.zeros_like(a, dtype=torch.bool).scatter(1, a.topk(top, 1).indices, True)
            a = a.masked_fill(~kept, -torch.inf)
        labels.append(a.softmax(1) @ torch.cat([labels[s] for s in seen]))
    return torch.stack(labels).transpose(1, 2).unflatten(2, (height, width))


@pytest.mark.parametrize(
    ("top", "references", "radius", "budget"),
    [(None, 0, None, None), (5, 2, None, 1), (1, 3, 2.5, 40_000), (7, 9, 4.0, None)],
)
def test_equals_a_dense_computation(top, references, radius, budget):
    torch.manual_seed(2)
    frames, mask = torch.rand(16, 5, 7, 9), torch.randint(0, 3, (7, 9))
    options = {"top": top, "references": references, "radius": radius}
    network = Directions()
    found = nl.propagate(
        network, frames, mask, layer="unit", scale=30.0, memory_budget=budget, **options
    )
    expected = dense(network, frames, mask, 30.0, **options)
    torch.testing.assert_close(found.maps.double(), expected, atol=2e-5, rtol=1e-4)


def test_frames_may_be_pictures_and_are_resized_and_normalized():
    torch.manual_seed(3)
    frames = torch.randint(0, 256, (3, 4, 24, 32), dtype=torch.uint8)
    pictures = np.ascontiguousarray(frames.permute(1, 2, 3, 0).numpy())
    options = {"points": [(10, 8)], "layer": "unit", "scale": SHARP}
    one = nl.propagate(Directions(4, 3), frames, **options)
    two = nl.propagate(Directions(4, 3), pictures, **options)
    assert torch.equal(one.points, two.points)
    twice = nl.propagate(Directions(4, 3), frames, short_side=48, **options)
    assert twice.maps.shape[2:] == (12, 16)
    assert twice.size == (24, 32)
    assert one.axes[1].stride == 2 * twice.axes[1].stride == 4


def test_blocks_of_video_networks_compare_frame_by_frame():
    torch.manual_seed(0)
    network = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32)
    frames = torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8)
    found = nl.propagate(network, frames, points=[(20, 9), (3, 30)])
    assert found.layer == "res3.non_local1"
    assert found.points.shape == (3, 2, 2)
    assert found.maps.shape == (3, 2, 4, 6)
    # the same rows as those of the block, on features of the frame alone
    kept = {}
    handle = network.res3.non_local1.register_forward_pre_hook(lambda _, x: kept.update(x=x[0]))
    with torch.no_grad():
        network.eval()
        maps = []
        for t in (0, 1):
            x = (frames[:, t : t + 1].float() / 255 - 0.45) / 0.225
            network.features(x.expand(-1, 2, -1, -1)[None])
            block = network.res3.non_local1
            maps.append((block.theta(kept["x"]), block.phi(kept["x"])))
    handle.remove()
    theta, phi = maps[1][0].flatten(2).mT, maps[0][1].flatten(2).mT
    rows = nl.affinity(theta, phi, "embedded_gaussian", scale=block.scale)[0]
    found = nl.propagate(network, frames, points=[(20, 9)], top=None, references=0)
    expected = rows @ found.maps[0].flatten(1).T
    torch.testing.assert_close(found.maps[1].flatten(1).T, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": None}, "give either mask or points; got neither"),
        ({"mask": torch.zeros(12, 16, dtype=torch.long)}, "got both"),
        (
            {"mask": torch.zeros(12, 16, dtype=torch.long), "points": torch.ones(2, 2)},
            "got both",
        ),
        ({"points": [(16, 3)]}, "points must lie in the frame, 16 x 12"),
        ({"points": [(1, 2, 3)]}, r"points must be x, y of each point, \(K, 2\)"),
        ({"points": None, "mask": torch.zeros(3, 3, dtype=torch.long)}, "mask must be labels"),
        ({"points": None, "mask": torch.zeros(12, 16)}, "labels must be integers"),
        ({"points": None, "mask": -torch.ones(2, 12, 16)}, "floats of at least 0"),
        ({"frames": torch.zeros(3, 12, 16)}, "frames must be uint8"),
        ({"frames": torch.zeros(5, 2, 4, 4, dtype=torch.uint8)}, "uint8 frames have 3 colors"),
        ({"frames": torch.zeros(3, 0, 4, 4)}, "frames must not be empty"),
        ({"layer": "uint"}, "did you mean 'unit'"),
        ({"layer": None}, "no non-local block: name a layer"),
        ({"layer": ""}, "layer must be one of"),
        ({"top": 0}, "top must be at least 1"),
        ({"references": -1}, "references must be at least 0"),
        ({"radius": 0.0}, "radius must be above 0"),
    ],
)
def test_errors_say_what_is_allowed(change, message):
    given = {"frames": moving(), "mask": None, "points": [(1, 1)], "layer": "unit"} | change
    frames, mask = given.pop("frames"), given.pop("mask")
    with pytest.raises(ValueError, match=message):
        nl.propagate(Directions(), frames, mask, **given)
