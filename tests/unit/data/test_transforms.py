from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from nonlocalnet.data import transforms
from nonlocalnet.data.transforms import (
    TestTransform,
    TrainTransform,
    denormalize,
    normalize,
    resize_short_side,
)


def coordinates(height: int, width: int, frames: int = 2) -> torch.Tensor:
    """Frames whose red value is the row and green the column: they tell where a crop came from."""
    clip = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
    clip[:, 0] = torch.arange(height, dtype=torch.uint8)[:, None]
    clip[:, 1] = torch.arange(width, dtype=torch.uint8)
    clip[:, 2] = torch.arange(frames, dtype=torch.uint8)[:, None, None]
    return clip


def test_normalize_is_the_official_formula():
    v = torch.arange(256, dtype=torch.uint8)
    expected = (np.arange(256) - 114.75) / 57.375
    np.testing.assert_allclose(normalize(v).numpy(), expected, rtol=0, atol=1e-6)
    assert normalize(v).dtype == torch.float32


def test_denormalize_undoes_and_clamps():
    v = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(denormalize(normalize(v)), v)
    assert denormalize(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


def test_floats_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        normalize(torch.zeros(2))
    with pytest.raises(ValueError, match="uint8"):
        TrainTransform(8, 8)(torch.zeros(2, 3, 8, 8))


def test_wrong_layout_is_refused():
    with pytest.raises(ValueError, match="3, H, W"):
        TestTransform(8, 8)(torch.zeros(3, 2, 8, 8, dtype=torch.uint8))


def test_resize_is_bilinear_without_antialias():
    # halving 0 0 255 255 ... samples between pairs: without antialias only the two neighbors count
    row = torch.tensor([0, 0, 255, 255, 0, 0, 0, 100], dtype=torch.uint8)
    frames = row.expand(1, 3, 8, 8).contiguous()
    assert resize_short_side(frames, 4)[0, 0, 0].tolist() == [0, 255, 0, 50]
    # a quarter: the sample at 1.5 sees pixels 1 and 2 alone, the one at 5.5 pixels 5 and 6
    assert resize_short_side(frames, 2)[0, 0, 0].tolist() in ([127, 0], [128, 0])


@pytest.mark.parametrize("size", [(30, 40), (127, 97), (33, 17)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_resize_gives_what_torchvision_gives(size, channels_last):
    torchvision = pytest.importorskip("torchvision.transforms.v2.functional")
    frames = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8)
    if channels_last:
        frames = frames.to(memory_format=torch.channels_last)
    # torchvision takes another way, which rounds otherwise, on processors without AVX2
    most = 0 if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else 1
    for side in (8, 16, 31, 57):
        ours = resize_short_side(frames, side)
        theirs = torchvision.resize(frames, list(ours.shape[-2:]), antialias=False)
        assert (ours.int() - theirs.int()).abs().max() <= most


def test_train_shape_type_and_value():
    out = TrainTransform(crop=16, short_side=(20, 24))(coordinates(30, 40, frames=5))
    assert out.shape == (3, 5, 16, 16)
    assert out.dtype == torch.uint8
    assert out.is_contiguous()


def test_train_crop_and_flip_are_one_for_the_whole_clip_and_reach_everything():
    transform = TrainTransform(crop=16, short_side=20)
    torch.manual_seed(0)
    tops, lefts, flips = set(), set(), 0
    for _ in range(400):
        out = transform(coordinates(20, 24, frames=3))
        assert (out[:2] == out[:2, :1]).all()  # rows and columns alike in all frames
        assert out[2, :, 0, 0].tolist() == [0, 1, 2]  # frames in their order
        rows, columns = out[0, 0, :, 0].tolist(), out[1, 0, 0].tolist()
        assert rows == list(range(rows[0], rows[0] + 16))
        flipped = columns[0] > columns[-1]
        columns = columns[::-1] if flipped else columns
        assert columns == list(range(columns[0], columns[0] + 16))
        tops.add(rows[0])
        lefts.add(columns[0])
        flips += flipped
    assert tops == set(range(5))
    assert lefts == set(range(9))
    assert 150 < flips < 250  # 200 +- 5 standard deviations


def test_train_short_side_is_drawn_uniformly_with_both_ends(monkeypatch):
    drawn = Counter()
    resize = transforms.resize_short_side

    def spy(frames: torch.Tensor, short_side: int) -> torch.Tensor:
        drawn[short_side] += 1
        return resize(frames, short_side)

    monkeypatch.setattr(transforms, "resize_short_side", spy)
    transform = TrainTransform(crop=16, short_side=(16, 19))
    torch.manual_seed(0)
    for _ in range(400):
        transform(coordinates(18, 18, frames=1))
    assert sorted(drawn) == [16, 17, 18, 19]
    assert all(56 < n < 144 for n in drawn.values())  # 100 +- 5 standard deviations


@pytest.mark.parametrize(("flip", "first"), [(0.0, 0), (1.0, 15)])
def test_train_flip_always_or_never(flip: float, first: int):
    transform = TrainTransform(crop=16, short_side=16, flip=flip)
    for _ in range(10):
        assert transform(coordinates(16, 16))[1, 0, 0, 0] == first


def test_train_follows_the_global_seed():
    transform, frames = TrainTransform(crop=16, short_side=(20, 40)), coordinates(30, 40)
    torch.manual_seed(3)
    a, b = transform(frames), transform(frames)
    torch.manual_seed(3)
    assert torch.equal(a, transform(frames))
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    "arguments",
    [{"crop": 30, "short_side": (20, 40)}, {"short_side": (320, 256)}, {"crop": 0}, {"flip": 1.5}],
)
def test_train_refuses(arguments: dict):
    with pytest.raises(ValueError, match=r"crop must fit|probability"):
        TrainTransform(**arguments)


def test_test_crops_by_hand():
    # 16 x 21, crop 16: center offset floor(5 / 2) = 2, crops at 0, 2, 4
    out = TestTransform(crop=16, short_side=16, num_crops=3)(coordinates(16, 21))
    assert out.shape == (3, 3, 2, 16, 16)
    assert out[:, 1, 0, 0, 0].tolist() == [0, 2, 4]
    assert out[:, 0, 0, 0, 0].tolist() == [0, 0, 0]
    tall = TestTransform(crop=16, short_side=16, num_crops=3)(coordinates(21, 16))
    assert tall[:, 0, 0, 0, 0].tolist() == [0, 2, 4]
    one = TestTransform(crop=12, short_side=16)(coordinates(16, 21))
    assert one.shape == (1, 3, 2, 12, 12)
    assert one[0, :, 1, 0, 0].tolist() == [2, 4, 1]


def test_six_crops_are_three_and_their_mirror_images():
    frames = coordinates(16, 21)
    three = TestTransform(crop=16, short_side=16, num_crops=3)(frames)
    six = TestTransform(crop=16, short_side=16, num_crops=6)(frames)
    assert torch.equal(six[:3], three)
    assert torch.equal(six[3:], three.flip(-1))


def test_a_whole_frame_keeps_its_shape():
    whole = TestTransform("whole", short_side=16)
    assert torch.equal(whole(coordinates(16, 21))[0], coordinates(16, 21).movedim(1, 0))
    assert whole(coordinates(48, 32)).shape[-2:] == (24, 16)
    with pytest.raises(ValueError, match="a whole frame is one crop"):
        TestTransform("whole", short_side=16, num_crops=3)


@pytest.mark.parametrize("arguments", [{"crop": 300}, {"crop": 0}, {"num_crops": 2}])
def test_test_refuses(arguments: dict):
    with pytest.raises(ValueError, match=r"crop must fit|num_crops"):
        TestTransform(**arguments)


def test_small_and_odd_sources_are_enlarged():
    for size in ((5, 7), (141, 33), (1, 1)):
        clip = torch.zeros(1, 3, *size, dtype=torch.uint8)
        assert TestTransform(16, 16, 3)(clip).shape == (3, 3, 1, 16, 16)
        assert TrainTransform(16, (16, 20))(clip).shape == (3, 1, 16, 16)
