"""What `look` shows: a clip, the attention in it, and a point to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from nonlocalnet.inspection.attention import Analysis, Attention, BlockMap
from nonlocalnet.inspection.geometry import Axis
from nonlocalnet.inspection.statistics import Point, Summary, describe, summarize

TOP = 5  # classes of a prediction


@dataclass(frozen=True)
class View:
    """How the frames were made from the video: scaled by `scale`, then cut at `corner`.

    Attributes:
        scale: (y, x), pixels of the frames per pixel of the video.
        corner: (top, left) of the cut, in scaled pixels.
        indices: each frame's index in the video.
        fps: frame rate of the video.
    """

    scale: tuple[float, float]
    corner: tuple[int, int]
    indices: list[int]
    fps: float

    def place(self, at: Sequence[float]) -> tuple[float, float, float]:
        """Convert (frame of the clip, x, y) in the video's pixels to (t, y, x) of the clip.

        Pixels and frames are represented by their centers.
        """
        t, x, y = at
        return (
            t + 0.5,
            (y + 0.5) * self.scale[0] - self.corner[0],
            (x + 0.5) * self.scale[1] - self.corner[1],
        )


@dataclass(frozen=True)
class Scene:
    """A clip, the attention of a network's non-local blocks in it, and what to show of them.

    Attributes:
        frames: (T, 3, H, W) uint8, the clip to show; an image or a sequence is one frame.
        analysis: the weights of the blocks, row by row.
        title: of pictures and pages.
        at: the requested point, (t, y, x) in the axes of the clip; None for the most distinctive
            point of the chosen block.
        name: module path or number of the chosen block; None is the last one.
        top: maximum number of arrows.
        prediction: (class, probability), most likely first.
        view: how the frames were made from a video; None without a video.
        multi_label: whether each class has its own, independent probability.
        image: (height, width) of an image that a detector padded at the right and bottom. The axes
            of the clip then cover image and padding, in pixels of the image, whatever the size of
            the frame.
        each_frame: whether brightness is relative to each frame: see `Attention.light`.
        region: (x1, y1, x2, y2) that the blocks in a detector's head see; outlined in the frame.
    """

    frames: Tensor
    analysis: Analysis
    title: str = ""
    at: tuple[float, ...] | None = None
    name: str | int | None = None
    top: int = 20
    prediction: Sequence[tuple[str, float]] = ()
    view: View | None = None
    multi_label: bool = False
    image: tuple[int, int] | None = None
    region: tuple[float, float, float, float] | None = None
    each_frame: bool = False

    @property
    def block(self) -> BlockMap:
        """The chosen block."""
        return self.analysis.block(self.name)

    @property
    def layer(self) -> tuple[int, int]:
        """The number of the chosen block, from 1, and the number of blocks."""
        return list(self.analysis.blocks).index(self.block.name) + 1, len(self.analysis.blocks)

    @cached_property
    def summaries(self) -> dict[str, tuple[Summary, list[Point]]]:
        """Statistics of each block, and its most distinctive positions."""
        return {
            name: summarize(block, within=self.image)
            for name, block in self.analysis.blocks.items()
        }

    @cached_property
    def attention(self) -> Attention:
        """The attention of the requested point, or else of the most distinctive one."""
        block = self.block
        if self.at is not None:
            found = self.analysis.attention(self.at, block=self.name)
        else:
            points = self.summaries[block.name][1]
            found = block.attention_of(points[0].query if points else (0,) * len(block.size))
        return replace(found, each_frame=self.each_frame)

    @property
    def reason(self) -> str:
        """Why this point is shown, in words."""
        if self.at is not None:
            return "the requested point"
        summary, points = self.summaries[self.block.name]
        if summary.evenly or not points:
            return "an arbitrary point, since none stands out"
        return f"the most distinctive point: {points[0].reason}"

    @property
    def evenly(self) -> str:
        """A sentence if the layer or the point attends evenly, so that there is nothing to see."""
        if self.summaries[self.block.name][0].evenly:
            return "this layer attends evenly: there is nothing to see"
        if self.attention.attends_evenly:
            return "this point attends evenly: there is nothing to see from here"
        return ""

    @property
    def times(self) -> list[float] | None:
        """The time of each frame in the video, in seconds; None without a video."""
        if self.view is None or not self.view.fps:
            return None
        return [index / self.view.fps for index in self.view.indices]

    def statistics(self) -> dict[str, Any]:
        """Return the statistics of the point and of every block, as plain values for JSON."""
        attention, block = self.attention, self.block
        position = int(np.ravel_multi_index(attention.query, block.size))
        keys = attention.shares.flatten().topk(min(self.top, attention.weights.numel()))
        return {
            "title": self.title,
            "prediction": [[name, p] for name, p in self.prediction],
            "block": block.name,
            "pairwise": block.pairwise,
            **({"heads": block.shown} if block.shown else {}),
            **({} if self.image is None else {"image": self.image, "region": self.region}),
            "point": {
                "query": list(attention.query),
                "center": _center(attention.queries, attention.query),
                "why": self.reason,
                "evenly": attention.attends_evenly,
                **describe(block, [position])[0].to_dict(),
            },
            "top": [
                {
                    "center": _center(attention.keys, np.unravel_index(int(flat), block.key_size)),
                    "weight": float(attention.weights.flatten()[flat]),
                    "share": float(share),
                }
                for share, flat in zip(keys.values, keys.indices, strict=True)
            ],
            "blocks": {
                name: {"pairwise": self.analysis.blocks[name].pairwise, **summary.to_dict()}
                for name, (summary, _) in self.summaries.items()
            },
        }


def place_point(at: Sequence[float], size: Sequence[int], view: View | None) -> tuple[float, ...]:
    """Convert a point as users give it, x before y, to the axes of the clip.

    Args:
        at: (step,), (x, y) or (frame, x, y).
        size: length of each axis of the clip.
        view: how the clip was made from a video, whose pixels `at` then counts.

    Raises:
        ValueError: the point has another number of axes, or lies outside.
    """
    names = {1: "(step,)", 2: "(x, y)", 3: "(frame, x, y)"}[len(size)]
    if len(at) != len(size):
        raise ValueError(f"at must be {names} here; got {tuple(at)}")
    if view is not None:
        inner: tuple[float, ...] = view.place(at)
    else:
        swapped = (at[0], at[2], at[1]) if len(at) == 3 else tuple(reversed(at))
        inner = tuple(x + 0.5 for x in swapped)  # the center of the pixel
    if not all(0 <= x <= n for x, n in zip(inner, size, strict=True)):
        axes = " x ".join(map(str, size))
        order = {1: "steps", 2: "height x width", 3: "frames x height x width"}[len(size)]
        cut = " of what the network sees" if view is not None else ""
        raise ValueError(f"at must be a {names} within {axes} ({order}){cut}; got {tuple(at)}")
    return inner


def _center(grid: Sequence[Axis], index: Sequence[Any]) -> list[float]:
    return [axis.center(int(i)) for axis, i in zip(grid, index, strict=True)]
