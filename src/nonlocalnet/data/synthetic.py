"""Generate small videos for a task that needs the first and the last frame together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nonlocalnet.data.video.write import write_video

FRAMES, SIZE, SQUARE = 8, 32, 8
COLORS = (
    (220, 40, 40),
    (40, 200, 40),
    (50, 70, 230),
    (230, 220, 40),
    (210, 50, 210),
    (40, 210, 220),
)
CLASSES = ("different", "same")


def generate_same_color(
    seed: int | Sequence[int], label: int | None = None
) -> tuple[np.ndarray, int]:
    """Generate a video of the demo's task: do the first and the last square have the same color?

    A square of 8x8 is anywhere in the first two frames, another anywhere in the last two; the rest
    is gray noise. Each color by itself is uniform in both classes, so that only the first and the
    last frames together tell the label.

    Args:
        seed: of all random choices.
        label: 1 for the same color, 0 for another of the six; None draws it.

    Returns:
        Frames, uint8 (8, 32, 32, 3), and the label.

    >>> frames, label = generate_same_color(seed=0, label=1)
    >>> frames.shape, label
    ((8, 32, 32, 3), 1)
    """
    rng = np.random.default_rng(seed)
    if label is None:
        label = int(rng.integers(2))
    if label not in (0, 1):
        raise ValueError(f"label must be 0 (different) or 1 (same), got {label}")
    first = int(rng.integers(len(COLORS)))
    last = first if label else (first + int(rng.integers(1, len(COLORS)))) % len(COLORS)
    gray = rng.integers(122, 134, size=(FRAMES, SIZE, SIZE, 1), dtype=np.uint8)
    frames = np.repeat(gray, 3, axis=3)
    for where, color in ((slice(0, 2), first), (slice(FRAMES - 2, FRAMES), last)):
        top, left = rng.integers(SIZE - SQUARE + 1, size=2)
        frames[where, top : top + SQUARE, left : left + SQUARE] = COLORS[color]
    return frames, label


def write_same_color(folder: str | Path, num_videos: int, seed: int) -> Path:
    """Write a data set of the demo's task: folder/different/*.mp4 and folder/same/*.mp4.

    Args:
        folder: where to write.
        num_videos: half of them (of an odd number, one fewer) are "same".
        seed: the same seed gives the same files, another seed other videos.

    Returns:
        The folder, for `read_dataset`.

    Raises:
        ValueError: fewer than 2 videos are asked for; each class needs one.
    """
    if num_videos < 2:
        raise ValueError(f"num_videos must be at least 2, one for each class, got {num_videos}")
    folder = Path(folder)
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(num_videos):
        frames, label = generate_same_color((seed, i), label=i % 2)
        write_video(folder / CLASSES[label] / f"{i:05d}.mp4", frames)
    return folder
