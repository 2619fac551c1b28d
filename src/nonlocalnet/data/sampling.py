"""Choose frames and crops: index arithmetic, without pixels."""

from __future__ import annotations

import random

from nonlocalnet.clips import ClipSpec


def random_clip(num_frames: int, clip: ClipSpec, rng: random.Random) -> list[int]:
    """Draw the frames of a training clip.

    start ~ U{0, ..., N - span} (0 where the video is shorter), index_i = (start + i · rate) mod N:
    a short video is repeated. Official code: customized_video_io.cc.

    >>> random_clip(5, ClipSpec(4, 2), random.Random(0))
    [0, 2, 4, 1]
    """
    _check_length(num_frames)
    return _indices(rng.randint(0, max(0, num_frames - clip.span)), num_frames, clip)


def center_clip(num_frames: int, clip: ClipSpec) -> list[int]:
    """Choose the clip in the middle: start = floor((N - span) / 2), 0 where the video is shorter.

    Validation during training uses it; the official code has no such clip.

    >>> center_clip(10, ClipSpec(3, 2))
    [2, 4, 6]
    """
    return clip_at(num_frames, clip, 0.5)


def clip_at(num_frames: int, clip: ClipSpec, moment: float) -> list[int]:
    """Choose a clip inside the video: start = floor(moment · (N - span)).

    A video that is shorter than the clip is repeated.

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
    return _indices(int(moment * max(0, num_frames - clip.span)), num_frames, clip)


def test_clips(num_frames: int, clip: ClipSpec, num_clips: int) -> list[list[int]]:
    """Choose `num_clips` clips whose starts are spread over the video.

    start_j = int(j · N / num_clips), index_i = (start_j + i · rate) mod N. The starts do not depend
    on the clip's length, so late clips continue at the video's beginning, as in the official code,
    whose README reports accuracies with 10 such clips.

    >>> test_clips(10, ClipSpec(3, 2), 2)
    [[0, 2, 4], [5, 7, 9]]
    """
    _check_length(num_frames)
    if num_clips < 1:
        raise ValueError(f"num_clips must be at least 1, got {num_clips}")
    return [_indices(j * num_frames // num_clips, num_frames, clip) for j in range(num_clips)]


# pytest takes every test_* for a test
test_clips.__test__ = False  # ty: ignore[missing-attribute]


def crop_offsets(height: int, width: int, crop: int, num_crops: int) -> list[tuple[int, int]]:
    """Place square crops: 1 in the center, or 3 along the longer side.

    3 crops are at 0, c, 2c of the longer side, c = floor((longer - crop) / 2), as in the official
    code: where longer - crop is odd, the last crop ends one pixel before the border.

    Returns:
        (top, left) of each.

    Raises:
        ValueError: the crop is larger than the frame, or num_crops is neither 1 nor 3.

    >>> crop_offsets(256, 341, 256, 3)
    [(0, 0), (0, 42), (0, 84)]
    """
    if num_crops not in (1, 3):
        raise ValueError(
            f"num_crops must be 1 (center) or 3 (along the longer side), not {num_crops}"
        )
    if crop < 1 or crop > min(height, width):
        raise ValueError(
            f"a crop of {crop} does not fit a frame of {height}x{width}: "
            f"choose 1 to {min(height, width)}, or a larger short_side"
        )
    top, left = (height - crop) // 2, (width - crop) // 2
    if num_crops == 1:
        return [(top, left)]
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
    return [(start + i * clip.rate) % num_frames for i in range(clip.frames)]


def _check_length(num_frames: int) -> None:
    if num_frames < 1:
        raise ValueError(f"a clip needs a video of at least 1 frame, got {num_frames}")
