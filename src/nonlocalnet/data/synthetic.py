"""Small videos made on the spot: a task that only distant frames together can solve."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import av
import numpy as np

FRAMES, SIZE, SQUARE, FPS = 8, 32, 8, 8
COLOURS = (
    (220, 40, 40),
    (40, 200, 40),
    (50, 70, 230),
    (230, 220, 40),
    (210, 50, 210),
    (40, 210, 220),
)
CLASSES = ("different", "same")


def write_video(
    path: str | Path, frames: np.ndarray, fps: int = FPS, codec: str = "libx264"
) -> None:
    """Write RGB frames as a video file; the suffix chooses the container.

    frames uint8 (T, H, W, 3), H and W even (yuv420p stores colours at half the size). H.264 is
    written at CRF 10, at which flat colours survive within a few levels. The file appears whole or
    not at all.

    Raises ValueError for frames of another shape or type, or odd sizes.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(
            f"yuv420p needs even sizes, got {height}x{width}: pad or crop by one pixel"
        )
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with av.open(str(partial.absolute()), "w") as container:
            options = {"crf": "10", "preset": "veryfast"} if codec == "libx264" else {}
            stream = cast("av.VideoStream", container.add_stream(codec, rate=fps, options=options))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.thread_count = 1  # the same bytes on every machine
            for frame in frames:
                image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def generate_same_colour(
    seed: int | Sequence[int], label: int | None = None
) -> tuple[np.ndarray, int]:
    """Make one video of the demo's task: do the first and the last square have the same colour?

    -> (frames uint8 (8, 32, 32, 3), label): a square of 8x8 anywhere in the first two frames,
    another anywhere in the last two, grey noise elsewhere. label 1: the same colour; 0: another of
    the six. Either colour alone is uniform in both classes, so no part of the video tells the
    label: it takes the first and the last frames together. Without `label` it is drawn, evenly.

    >>> frames, label = generate_same_colour(seed=0, label=1)
    >>> frames.shape, label
    ((8, 32, 32, 3), 1)
    """
    rng = np.random.default_rng(seed)
    if label is None:
        label = int(rng.integers(2))
    if label not in (0, 1):
        raise ValueError(f"label must be 0 (different) or 1 (same), got {label}")
    first = int(rng.integers(len(COLOURS)))
    last = first if label else (first + int(rng.integers(1, len(COLOURS)))) % len(COLOURS)
    grey = rng.integers(122, 134, size=(FRAMES, SIZE, SIZE, 1), dtype=np.uint8)
    frames = np.repeat(grey, 3, axis=3)
    for where, colour in ((slice(0, 2), first), (slice(FRAMES - 2, FRAMES), last)):
        top, left = rng.integers(SIZE - SQUARE + 1, size=2)
        frames[where, top : top + SQUARE, left : left + SQUARE] = COLOURS[colour]
    return frames, label


def write_same_colour(folder: str | Path, num_videos: int, seed: int) -> Path:
    """Write a data set of the demo's task: folder/different/*.mp4 and folder/same/*.mp4.

    Half of the videos (of an odd number: one fewer) is "same"; the same seed gives the same files,
    different seeds give different videos. Returns the folder, for `read_folder`.

    Raises ValueError for fewer than 2 videos: each class needs one.
    """
    if num_videos < 2:
        raise ValueError(f"num_videos must be at least 2, one for each class, got {num_videos}")
    folder = Path(folder)
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(num_videos):
        frames, label = generate_same_colour((seed, i), label=i % 2)
        write_video(folder / CLASSES[label] / f"{i:05d}.mp4", frames)
    return folder
