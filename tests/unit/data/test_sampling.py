from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonlocalnet.clips import ClipSpec
from nonlocalnet.data import sampling
from nonlocalnet.data.sampling import (
    center_clip,
    crop_offsets,
    random_clip,
    short_side_size,
)

clips = st.builds(ClipSpec, st.integers(1, 64), st.integers(1, 16))
lengths = st.integers(1, 500)


def test_clip_spec_reads_what_it_writes():
    clip = ClipSpec.parse("32x2")
    assert (clip.frames, clip.rate, clip.span, str(clip)) == (32, 2, 64, "32x2")


@pytest.mark.parametrize("text", ["", "8", "8x", "x8", "8x8x8", "-8x8", "8 x 8", "8.0x8", "8X8"])
def test_clip_spec_refuses(text: str):
    with pytest.raises(ValueError, match="FRAMESxRATE"):
        ClipSpec.parse(text)


@pytest.mark.parametrize("text", ["0x8", "8x0"])
def test_clip_spec_refuses_zero(text: str):
    with pytest.raises(ValueError, match="at least 1 frame"):
        ClipSpec.parse(text)


@given(lengths, clips, st.integers())
def test_random_clip_is_evenly_spaced_and_loops(n: int, clip: ClipSpec, seed: int):
    indices = random_clip(n, clip, random.Random(seed))
    assert len(indices) == clip.frames
    start = indices[0]
    assert 0 <= start <= max(0, n - clip.frames * clip.rate)
    for i, index in enumerate(indices):
        assert 0 <= index < n
        assert (index - start - i * clip.rate) % n == 0


def test_random_clip_reaches_every_start_equally():
    # span 4 in 10 frames: starts 0 to 6
    rng = random.Random(0)
    counts = Counter(random_clip(10, ClipSpec(2, 2), rng)[0] for _ in range(7000))
    assert sorted(counts) == list(range(7))
    assert all(850 < c < 1150 for c in counts.values())  # 1000 +- 5 standard deviations


def test_short_video_starts_at_zero_and_loops():
    assert random_clip(3, ClipSpec(5, 2), random.Random(1)) == [0, 2, 1, 0, 2]


@pytest.mark.parametrize(
    ("n", "expected"),
    [(10, [2, 4, 6]), (11, [2, 4, 6]), (6, [0, 2, 4]), (5, [0, 2, 4]), (1, [0] * 3)],
)
def test_center_clip_by_hand(n: int, expected: list[int]):
    assert center_clip(n, ClipSpec(3, 2)) == expected


def test_test_clips_by_hand():
    # starts int(j * 75 / 10), as the official C++ computes them; the last ones wrap around
    found = sampling.test_clips(75, ClipSpec(4, 8), 10)
    assert [c[0] for c in found] == [0, 7, 15, 22, 30, 37, 45, 52, 60, 67]
    assert found[7] == [52, 60, 68, 1]
    assert found[9] == [67, 0, 8, 16]


@given(lengths, clips, st.integers(1, 30))
def test_test_clips_start_where_the_official_code_starts(n: int, clip: ClipSpec, k: int):
    found = sampling.test_clips(n, clip, k)
    assert [c[0] for c in found] == [int(j * n / k) for j in range(k)]
    assert all(c[i] == (c[0] + i * clip.rate) % n for c in found for i in range(clip.frames))


@pytest.mark.parametrize("n", [0, -3])
def test_no_frames_is_an_error(n: int):
    clip = ClipSpec(2, 2)
    for call in (
        lambda: random_clip(n, clip, random.Random(0)),
        lambda: center_clip(n, clip),
        lambda: sampling.test_clips(n, clip, 2),
    ):
        with pytest.raises(ValueError, match="at least 1 frame"):
            call()


def test_no_clips_is_an_error():
    with pytest.raises(ValueError, match="num_clips"):
        sampling.test_clips(10, ClipSpec(2, 2), 0)


def test_crop_offsets_by_hand():
    assert crop_offsets(256, 341, 256, 3) == [(0, 0), (0, 42), (0, 84)]  # 85 spare, one lost
    assert crop_offsets(341, 256, 256, 3) == [(0, 0), (42, 0), (84, 0)]
    assert crop_offsets(256, 341, 224, 1) == [(16, 58)]
    assert crop_offsets(256, 340, 224, 3) == [(16, 0), (16, 58), (16, 116)]
    assert crop_offsets(256, 256, 256, 3) == [(0, 0)] * 3


@given(st.integers(1, 600), st.integers(1, 600), st.data(), st.sampled_from([1, 3]))
def test_crops_lie_inside(height: int, width: int, data: st.DataObject, n: int):
    crop = data.draw(st.integers(1, min(height, width)))
    offsets = crop_offsets(height, width, crop, n)
    assert len(offsets) == n
    for top, left in offsets:
        assert 0 <= top <= height - crop
        assert 0 <= left <= width - crop


@pytest.mark.parametrize(
    ("crop", "n", "said"), [(300, 1, "does not fit"), (0, 1, "fit"), (8, 2, "1 .center")]
)
def test_crop_offsets_refuse(crop: int, n: int, said: str):
    with pytest.raises(ValueError, match=said):
        crop_offsets(256, 341, crop, n)


def test_short_side_size_where_the_official_code_loses_a_pixel():
    # reference, section 9, quirk 16
    for side in (82, 141, 214, 218, 230, 243):
        assert short_side_size(side, side + 50, 256)[0] == 256
        assert short_side_size(side + 50, side, 256)[1] == 256


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1000))
def test_short_side_size_keeps_the_aspect(height: int, width: int, short: int):
    h, w = short_side_size(height, width, short)
    assert min(h, w) == short
    longer = max(height, width) * short / min(height, width)
    assert longer - 1 < max(h, w) <= longer + 1e-6
    assert (h <= w) == (height <= width) or h == w


def test_short_side_size_refuses_nothing():
    with pytest.raises(ValueError, match="positive"):
        short_side_size(0, 10, 5)
