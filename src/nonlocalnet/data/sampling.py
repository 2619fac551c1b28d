"""Choose frames and crops: index arithmetic, without pixels."""

from __future__ import annotations

import random

from nonlocalnet.clips import RULES, ClipSpec
from nonlocalnet.errors import check_choice


def random_clip(num_frames: int, clip: ClipSpec, rng: random.Random) -> list[int]:
    """Draw the frames of a training clip.

    start ~ U{0, ..., N - span} (0 where the video is shorter), index_i = (start + i · rate) mod N:
    a short video is repeated. Official code: customized_video_io.cc.

    Of each segment, a random frame: index_i = floor((i + u_i) · N / S), u_i ~ U[0, 1).

    >>> random_clip(5, ClipSpec(4, 2), random.Random(0))
    [0, 2, 4, 1]
    """
    _check_length(num_frames)
    if clip.span is None:
        return [int((i + rng.random()) * num_frames / clip.frames) for i in range(clip.frames)]
    return _indices(rng.randint(0, max(0, num_frames - clip.span)), num_frames, clip)


def center_clip(num_frames: int, clip: ClipSpec) -> list[int]:
    """Choose the clip in the middle: start = floor((N - span) / 2), 0 where the video is shorter.

    Of each segment, the frame in its middle: index_i = floor((i + 1/2) · N / S).

    Validation during training uses it; the official code has no such clip.

    >>> center_clip(10, ClipSpec(3, 2))
    [2, 4, 6]
    """
    return clip_at(num_frames, clip, 0.5)


def clip_at(num_frames: int, clip: ClipSpec, moment: float) -> list[int]:
    """Choose a clip inside the video: start = floor(moment · (N - span)).

    A video that is shorter than the clip is repeated. Segments cover the whole video: there is one
    clip, the frames in their middle, whatever the moment.

    Args:
        num_frames: of the video, N.
        clip: frames and rate.
        moment: from 0, the first clip, to 1, the last one.

    >>> clip_at(10, ClipSpec(3, 2), 1)
    [4, 6, 8]
    """
    _check_length(num_frames)
    if not 0 <= moment <= 1:
        raise ValueError(f"moment must be from 0 (first clip) to 1 (last), got {moment}")
    if clip.span is None:
        return _segments(num_frames, clip, 0, 1)
    return _indices(int(moment * max(0, num_frames - clip.span)), num_frames, clip)


def test_clips(
    num_frames: int,
    clip: ClipSpec,
    num_clips: int,
    rule: str = "official",  # noqa: PT028
) -> list[list[int]]:
    """Choose `num_clips` clips whose starts are spread over the video.

    index_i = (start_j + i · rate) mod N: a clip that is longer than the video continues at its
    beginning. The start of clip j of K is, in the code of each project,

    - "official": floor(j · N / K). It does not depend on the clip's length, so late clips continue
      at the video's beginning;
    - "mmaction2": round(j · (N - span') / (K - 1)), from the first clip to the last one; span' =
      span - rate + 1 ends with the last frame that is read;
    - "tsm": floor(j · (N - span) / (K - 1)).

    Of segments, clip j takes the frame at the same place of each: index_i = floor((i + p_j) · N /
    S), p_j = (1/2 - j / K) mod 1: the middle if K = 1, the middle and the first frame if K = 2 (the
    "twice" of TSM's code).

    Args:
        num_frames: of the video, N.
        clip: frames and rate.
        num_clips: K.
        rule: which of the rules above.

    Source: official code, `lib/datasets`, whose README reports accuracies with 10 clips; MMAction2,
    `SampleFrames`; TSM's code, `ops/dataset.py`.

    >>> test_clips(10, ClipSpec(3, 2), 2)
    [[0, 2, 4], [5, 7, 9]]
    >>> test_clips(10, ClipSpec(3, 2), 2, "mmaction2")
    [[0, 2, 4], [5, 7, 9]]
    >>> test_clips(10, ClipSpec(2, None), 2)
    [[2, 7], [0, 5]]
    """
    _check_length(num_frames)
    if num_clips < 1:
        raise ValueError(f"num_clips must be at least 1, got {num_clips}")
    check_choice("rule", rule, RULES)
    if clip.rate is None:
        return [_segments(num_frames, clip, j, num_clips) for j in range(num_clips)]
    starts = [STARTS[rule](num_frames, clip, j, num_clips) for j in range(num_clips)]
    return [_indices(start, num_frames, clip) for start in starts]


def _official(frames: int, clip: ClipSpec, j: int, clips: int) -> int:
    return j * frames // clips


def _mmaction2(frames: int, clip: ClipSpec, j: int, clips: int) -> int:
    assert clip.rate is not None, "segments have no start"
    last = max(frames - (clip.frames - 1) * clip.rate - 1, 0)
    return round(j * (last / max(clips - 1, 1)))


def _tsm(frames: int, clip: ClipSpec, j: int, clips: int) -> int:
    assert clip.span is not None, "segments have no start"
    return j * max(frames - clip.span, 0) // max(clips - 1, 1)


STARTS = dict(zip(RULES, (_official, _mmaction2, _tsm), strict=True))


# pytest takes every test_* for a test
test_clips.__test__ = False  # ty: ignore[missing-attribute]


def crop_offsets(
    height: int, width: int, crop: int, num_crops: int, rule: str = "official"
) -> list[tuple[int, int]]:
    """Place square crops: 1 in the center, 3 along the longer side, or 5.

    3 crops are at 0, c, 2c of the longer side, c = floor((longer - crop) / 2), as in the official
    code: where longer - crop is odd, the last crop ends one pixel before the border.

    5 crops are the corners and the center, at 0, 2q, 4q of each side, q = floor((side - crop) / 4).
    With the rule "tsm", 3 crops are at 0, 2q, 4q of the width, even if the height is longer.

    Returns:
        (top, left) of each.

    Raises:
        ValueError: the crop is larger than the frame, or num_crops is another number.

    Source: official code; MMAction2, `TenCrop`; TSM's code, `GroupFullResSample`.

    >>> crop_offsets(256, 341, 256, 3)
    [(0, 0), (0, 42), (0, 84)]
    >>> crop_offsets(256, 340, 224, 5)
    [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]
    """
    if num_crops not in (1, 3, 5):
        raise ValueError(
            "num_crops must be 1 (center), 3 (along the longer side) or 5 (corners and center), "
            f"not {num_crops}"
        )
    check_choice("rule", rule, RULES)
    if crop < 1 or crop > min(height, width):
        raise ValueError(
            f"a crop of {crop} does not fit a frame of {height}x{width}: "
            f"choose 1 to {min(height, width)}, or a larger short_side"
        )
    top, left = (height - crop) // 2, (width - crop) // 2
    if num_crops == 1:
        return [(top, left)]
    if num_crops == 5 or rule == "tsm":
        down, right = (height - crop) // 4, (width - crop) // 4
        middle = 2 * down, 2 * right
        if num_crops == 3:
            return [(middle[0], 0), middle, (middle[0], 4 * right)]
        return [(y, x) for y in (0, 4 * down) for x in (0, 4 * right)] + [middle]
    if width >= height:
        return [(top, i * left) for i in range(3)]
    return [(i * top, left) for i in range(3)]


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Scale (height, width) to a shorter side of `short_side`; the longer one is rounded down.

    This uses whole numbers. The official code multiplies by a float32 ratio, which gives 255
    instead of 256 for 133 source sizes between 64 and 1080; that is not reproduced.

    >>> short_side_size(141, 200, 256)
    (256, 363)
    """
    if min(height, width, short_side) < 1:
        raise ValueError(
            f"sizes must be positive, got {height}x{width} and short_side {short_side}"
        )
    if height <= width:
        return short_side, width * short_side // height
    return height * short_side // width, short_side


def limit_short_side(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Scale (height, width) down to a shorter side of `short_side`; smaller frames stay.

    >>> limit_short_side(480, 640, 256), limit_short_side(48, 64, 256)
    ((256, 341), (48, 64))
    """
    if short_side is None or min(height, width) <= short_side:
        return height, width
    return short_side_size(height, width, short_side)


def _indices(start: int, num_frames: int, clip: ClipSpec) -> list[int]:
    assert clip.rate is not None, "segments have no start"
    return [(start + i * clip.rate) % num_frames for i in range(clip.frames)]


def _segments(num_frames: int, clip: ClipSpec, j: int, clips: int) -> list[int]:
    """Return the frame of each segment at (1/2 - j / clips) mod 1 of its length."""
    place = (clips - 2 * j) % (2 * clips)  # in parts of 2 · clips
    return [
        (2 * clips * i + place) * num_frames // (2 * clips * clip.frames)
        for i in range(clip.frames)
    ]


def _check_length(num_frames: int) -> None:
    if num_frames < 1:
        raise ValueError(f"a clip needs a video of at least 1 frame, got {num_frames}")
