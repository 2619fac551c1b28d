"""Follow points through a video file: see `nl.propagate`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nonlocalnet.data.video.reader import open_reader
from nonlocalnet.inspection.propagation import Propagation, propagate
from nonlocalnet.networks.registry import Network

SHORT_SIDE = 480  # of the frames that are shown, at most, unless the network sees larger ones


@dataclass(frozen=True)
class Followed:
    """Points that were followed through a video.

    Attributes:
        title: of films and pictures.
        frames: (T, 3, H, W) uint8, those that were looked at, scaled down.
        seconds: the time of each in the video.
        scale: (x, y), pixels of these frames per pixel of the video.
        found: the points in pixels of these frames.
    """

    title: str
    frames: Tensor
    seconds: list[float]
    scale: tuple[float, float]
    found: Propagation

    @property
    def points(self) -> Tensor:
        """(T, K, 2), x and y of each point in each frame, in pixels of the video."""
        assert self.found.points is not None
        return (self.found.points + 0.5) / torch.tensor(self.scale) - 0.5


def follow(
    network: Network,
    path: str | os.PathLike,
    points: Sequence[Sequence[float]],
    *,
    start: int | str = 0,
    fps: float = 4.0,
    seconds: float | None = None,
    short_side: int | Literal["auto"] = "auto",
    radius: float | None = None,
    **options: Any,
) -> Followed:
    """Follow points of one frame of a video file to its end.

    Args:
        network: from `nl.load`.
        path: the video.
        points: x, y of each point, in pixels of the video.
        start: the frame of the points: its number, or seconds such as "1.5s", for the nearest one.
        fps: frames a second to look at; others are left out.
        seconds: how long to follow them; None is to the end.
        short_side: of the frames that the network sees: see `nl.propagate`.
        radius: as in `nl.propagate`, in pixels of the video.
        **options: of `nl.propagate`.

    Raises:
        ValueError: `start` or a point lies outside, or an option does not fit.
        VideoError: the video cannot be read, or has neither time stamps nor a frame rate.
    """
    shown = SHORT_SIDE if short_side == "auto" else max(short_side, SHORT_SIDE)
    with open_reader(path) as reader:
        about, times = reader.info(), reader.times()
        first = _find_start(start, times)
        for x, y in points:
            if not (0 <= x < about.width and 0 <= y < about.height):
                raise ValueError(
                    f"points must lie in the video, {about.width} x {about.height} pixels; "
                    f"got ({x:g}, {y:g})"
                )
        indices = _choose(times, first, fps, seconds)
        frames = reader.frames(indices, short_side=shown)
    scale = frames.shape[3] / about.width, frames.shape[2] / about.height
    placed = (torch.tensor(points) + 0.5) * torch.tensor(scale) - 0.5
    found = propagate(
        network,
        frames.transpose(0, 1),
        points=placed.clamp(min=0),
        short_side=short_side,
        radius=None if radius is None else radius * scale[0],  # both are alike but for rounding
        **options,
    )
    return Followed(Path(path).name, frames, [times[i] for i in indices], scale, found)


def _find_start(start: int | str, times: Sequence[float]) -> int:
    """Return the number of a frame, given as such or in seconds."""
    last = len(times) - 1
    if isinstance(start, int):
        if not 0 <= start <= last:
            raise ValueError(f"the frame must be from 0 to {last}, the video's last; got {start}")
        return start
    seconds = float(start.removesuffix("s"))
    if not 0 <= seconds <= times[-1] + 1:
        raise ValueError(
            f"the moment must lie in the video, whose last frame is at {times[-1]:.2f} s; "
            f"got {start}"
        )
    return min(range(len(times)), key=lambda i: abs(times[i] - seconds))


def _choose(times: Sequence[float], first: int, fps: float, seconds: float | None) -> list[int]:
    """Choose the frames to look at: the first one at or after each tick of 1 / fps.

    >>> _choose([0.0, 0.1, 0.2, 0.3, 0.4], first=1, fps=5.0, seconds=None)
    [1, 3]
    """
    chosen = [first]
    for i in range(first + 1, len(times)):
        passed = times[i] - times[first]
        if seconds is not None and passed > seconds + 1e-6:
            break
        if passed >= len(chosen) / fps - 1e-6:
            chosen.append(i)
    return chosen
