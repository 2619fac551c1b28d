"""Look at what a network's non-local blocks relate: `nl.look`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.clips import MEAN, STD, ClipSpec
from nonlocalnet.data.sampling import clip_at
from nonlocalnet.data.transforms import TestTransform, normalize
from nonlocalnet.data.video.reader import open_reader
from nonlocalnet.detection.networks import is_detector
from nonlocalnet.inspection.analysis import Analysis, Attention, BlockMap, analyze
from nonlocalnet.inspection.moment import part_of
from nonlocalnet.inspection.statistics import Point, Summary, describe, summarize
from nonlocalnet.networks.video_resnet import VideoResNet

STRIP = (96, 640)  # height and least width of the picture of a sequence, pixels
TOP = 5  # classes
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class View:
    """How the frames shown came from the video: scaled by `scale`, then cut at (left, top).

    Attributes:
        scale: (y, x), pixels shown per pixel of the video.
        corner: (top, left) of the cut, in scaled pixels.
        indices: which frame of the video each one is.
        fps: of the video.
    """

    scale: tuple[float, float]
    corner: tuple[int, int]
    indices: list[int]
    fps: float

    def place(self, at: Sequence[float]) -> tuple[float, float, float]:
        """Turn (frame of the clip, x, y), in the video's own pixels, into (t, y, x) of the clip.

        A pixel and a frame are meant by their middle.
        """
        t, x, y = at
        return (
            t + 0.5,
            (y + 0.5) * self.scale[0] - self.corner[0],
            (x + 0.5) * self.scale[1] - self.corner[1],
        )


@dataclass(frozen=True)
class Look:
    """What a network relates to what in one clip: it displays itself in a notebook.

    Attributes:
        frames: (T, 3, H, W) uint8, the clip as it is shown; an image or a sequence is one frame.
        analysis: the blocks' weights, row by row.
        title: of pictures and page.
        at: the point that was asked for, (t, y, x) in the clip's own axes; None is the most telling
            one of the block that is looked at.
        name: the block that was asked for, its module path or number; None is the last one.
        top: how many arrows.
        prediction: (class, probability), the likeliest first.
        view: where the frames lie in the video, if they come from one.
        multi_label: whether the probabilities are each class's own.
        image: height and width of an image that a detector padded, at the right and below. The
            clip's axes are then those of image and padding, in the image's pixels, whatever the
            size it is shown in.
        region: (x1, y1, x2, y2) that blocks in a detector's head look at, outlined in the frame.
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

    @property
    def block(self) -> BlockMap:
        """The block that is looked at."""
        return self.analysis.block(self.name)

    @property
    def layer(self) -> tuple[int, int]:
        """The number of the block that is looked at, from 1, and how many there are."""
        return list(self.analysis.blocks).index(self.block.name) + 1, len(self.analysis.blocks)

    @cached_property
    def summaries(self) -> dict[str, tuple[Summary, list[Point]]]:
        """Numbers of every block, and its most telling positions."""
        return {
            name: summarize(block, within=self.image)
            for name, block in self.analysis.blocks.items()
        }

    @cached_property
    def attention(self) -> Attention:
        """The weights of the point asked for, or else of the most telling one."""
        if self.at is not None:
            return self.analysis.attention(self.at, block=self.name)
        block = self.block
        points = self.summaries[block.name][1]
        return block.attention_of(points[0].query if points else (0,) * len(block.size))

    @property
    def reason(self) -> str:
        """Why this point is shown, in words."""
        if self.at is not None:
            return "the point asked for"
        summary, points = self.summaries[self.block.name]
        if summary.evenly or not points:
            return "any point, as none tells more than others"
        return f"the point that looks most its own way: {points[0].reason}"

    @property
    def evenly(self) -> str:
        """Say that there is nothing to see, if the layer or the point attends evenly; else ""."""
        if self.summaries[self.block.name][0].evenly:
            return "this layer attends evenly: there is nothing to see"
        if self.attention.attends_evenly:
            return "this point attends evenly: there is nothing to see from here"
        return ""

    @property
    def times(self) -> list[float] | None:
        """When each frame is shown in the video, seconds; None without a video."""
        if self.view is None or not self.view.fps:
            return None
        return [index / self.view.fps for index in self.view.indices]

    def numbers(self) -> dict[str, Any]:
        """Give the numbers of the point and of every block, as plain values for JSON."""
        attention, block = self.attention, self.block
        position = int(np.ravel_multi_index(attention.query, block.size))
        keys = attention.shares.flatten().topk(min(self.top, attention.weights.numel()))
        return {
            "title": self.title,
            "prediction": [[name, p] for name, p in self.prediction],
            "block": block.name,
            "pairwise": block.pairwise,
            **({} if self.image is None else {"image": self.image, "region": self.region}),
            "point": {
                "query": list(attention.query),
                "center": [axis.start + i * axis.stride for axis, i in _pairs(attention)],
                "why": self.reason,
                "evenly": attention.attends_evenly,
                **describe(block, [position])[0].plain(),
            },
            "top": [
                {
                    "center": _center(attention, int(flat)),
                    "weight": float(attention.weights.flatten()[flat]),
                    "share": float(share),
                }
                for share, flat in zip(keys.values, keys.indices, strict=True)
            ],
            "blocks": {
                name: {
                    "pairwise": self.analysis.blocks[name].pairwise,
                    "mean": summary.mean.plain(),
                    "even": summary.even.plain(),
                    "evenly": summary.evenly,
                    "common": summary.common,
                    "keys": summary.keys,
                    "sampled": summary.sampled,
                }
                for name, (summary, _) in self.summaries.items()
            },
        }

    def save(self, path: str | os.PathLike, **options: Any) -> Path:
        """Write a picture (.png), an animation (.mp4), a page (.html) or the numbers (.json).

        Options are those of `draw.figure3`, `animation.animate` and `document.write_page`. What was
        there before is replaced whole or not at all.

        Raises:
            ValueError: another ending, or a film of what is no video.
        """
        from nonlocalnet.inspection.save import save

        return save(self, Path(path), **options)

    def _repr_html_(self) -> str:
        from nonlocalnet.inspection.html_page import notebook

        return notebook(self)


def look(
    model: nn.Module,
    clip: Tensor | str | os.PathLike,
    at: Sequence[float] | None = None,
    *,
    block: str | int | None = None,
    top: int = 20,
    title: str = "",
    moment: float | str = 0.5,
    crop: bool = False,
) -> Look:
    """Look at what a position of a clip attends to in a network's non-local blocks.

    Args:
        model: any network with `NonLocalBlock`s. One from `nl.load` knows its clip and input.
            Detectors are torchvision's R-CNNs, of `create_detector` or with `add_non_local`.
        clip: a video file, for networks from `nl.load`; or the network's input without the batch:
            (3, T, H, W) video, (3, H, W) image, (C, T) sequence. uint8 pictures are normalized as
            the network's weights say; what is normalized already is shown by undoing that.
            For a detector an image of any size: a file, or uint8 or float from 0 to 1, (3, H, W).
        at: the point: (frame of the clip, x, y) in the pixels of the video, or of the tensor;
            (x, y) for an image, (step,) for a sequence; for a detector, in the pixels of the image
            as it is given. By default the block's most telling point: that whose attention is most
            its own (`numbers.summarize`).
        block: module path, or number as in the page, from 1; the last block by default. All blocks
            are in the page.
        top: how many arrows.
        title: by default the file's name.
        moment: where in the video the clip lies, from 0 (first) to 1 (last), or in seconds, "1.5s":
            the clip whose middle is nearest to that; of a file only.
        crop: look at the center crop that networks are tested on instead of whole frames; of a
            file only.

    Returns:
        A `Look`: it shows itself in a notebook, `save` writes .html, .png, .mp4 or .json.

    Raises:
        ValueError: no non-local block, no such block, a point outside the clip, a moment outside
            the video; a video for a detector, or an image file for another network.
        VideoError, CocoError: the file cannot be read.

    Source: paper, figure 3.

    >>> import torch, nonlocalnet as nl
    >>> net = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32)
    >>> found = nl.look(net, torch.rand(3, 8, 32, 32), at=(5, 16, 9))
    >>> found.attention.query, found.attention.weights.shape
    ((2, 1, 2), torch.Size([4, 2, 2]))
    """
    if is_detector(model):
        from nonlocalnet.detection.look import look_at_image, read_picture

        if crop or moment != 0.5:
            raise ValueError("a detector looks at whole images: leave out moment and crop")
        if not isinstance(clip, Tensor):
            title = title or Path(clip).name
            clip = read_picture(clip)
        return look_at_image(model, clip, at=at, block=block, top=top, title=title)
    view = None
    if not isinstance(clip, Tensor):
        if Path(clip).suffix.lower() in IMAGES:
            raise ValueError(
                f"{clip} is an image, and this network takes videos: pass a video file, or the "
                "weights of a detector"
            )
        info = getattr(model, "info", None)
        if info is None:
            raise ValueError("this model does not know its clip: load it with nl.load")
        title = title or Path(clip).name
        clip, view = read_clip(clip, info, moment=moment, crop=crop)
    return look_at_clip(model, clip, view, at=at, block=block, top=top, title=title)


def look_at_clip(
    model: nn.Module,
    clip: Tensor,
    view: View | None = None,
    *,
    at: Sequence[float] | None = None,
    block: str | int | None = None,
    top: int = 20,
    title: str = "",
) -> Look:
    """Look at a clip that was read already; `view` says where it lies in its video: see `look`."""
    info = getattr(model, "info", None)
    frames, given = _pictures(clip, info)
    inner = at if at is None else place_point(at, given.shape[1:], view)
    many = info is not None and info.multi_label
    forward: Callable[[Tensor], Tensor] | None = None
    if isinstance(model, VideoResNet):
        forward = partial(model.probabilities, multi_label=many)
    analysis = analyze(model, given, forward=forward)
    analysis.block(block)  # refuses one that is not there
    prediction = []
    if info is not None and forward is not None:
        best = analysis.output[0].float().cpu().topk(min(TOP, analysis.output.shape[1]))
        prediction = [
            (info.class_name(int(label)), float(p))
            for p, label in zip(best.values, best.indices, strict=True)
        ]
    return Look(frames, analysis, title, inner, block, top, prediction, view, many)


def read_clip(
    path: str | os.PathLike,
    info: WeightsInfo,
    *,
    moment: float | str = 0.5,
    crop: bool = False,
) -> tuple[Tensor, View]:
    """Decode the clip that a network looks at: uint8 (3, T, H, W), and where it lies.

    Frames are scaled to the short side that the network is tested at.

    Args:
        path: the video.
        info: of the network.
        moment: where in the video the clip lies, from 0 (first) to 1 (last), or in seconds, "1.5s".
        crop: cut the center; else whole frames.

    Raises:
        ValueError: a moment outside [0, 1], or outside the video.
        VideoError: it cannot be read.
    """
    side, spec = info.short_side, ClipSpec.parse(info.config["clip"])
    with open_reader(path) as reader:
        about = reader.info()
        part = part_of(moment, reader.num_frames, spec.span, about.fps)
        indices = clip_at(reader.num_frames, spec, part)
        frames = reader.frames(indices, short_side=side)
    clip = TestTransform(side if crop else "whole", side)(frames)[0]
    cut_from = TestTransform("whole", side)(frames[:1])[0].shape[2:] if crop else clip.shape[2:]
    corner = ((cut_from[0] - clip.shape[2]) // 2, (cut_from[1] - clip.shape[3]) // 2)
    scale = (cut_from[0] / about.height, cut_from[1] / about.width)
    return clip, View(scale, corner, indices, about.fps)


def _pictures(clip: Tensor, info: WeightsInfo | None) -> tuple[Tensor, Tensor]:
    """Give frames to show, uint8 (T, 3, H, W), and the network's input."""
    if clip.ndim not in (2, 3, 4):
        raise ValueError(
            "clip must be (3, T, H, W), (3, H, W) or (C, T), without the batch; "
            f"got {tuple(clip.shape)}"
        )
    if clip.ndim == 2:
        return _strip(clip), clip
    if clip.shape[0] != 3:
        raise ValueError(f"pictures have 3 colors; got {tuple(clip.shape)}")
    video = clip if clip.ndim == 4 else clip.unsqueeze(1)
    mean, std = (MEAN, STD) if info is None else (info.mean, info.std)
    if clip.dtype == torch.uint8:
        given = normalize(video, mean, std)
        return video.transpose(0, 1).cpu(), given if clip.ndim == 4 else given.squeeze(1)
    shape = (3, 1, 1, 1)
    colors = video.float().cpu() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    return (255 * colors).round().clamp(0, 255).byte().transpose(0, 1), clip


def _strip(sequence: Tensor) -> Tensor:
    """Draw a sequence (C, T) as a gray picture, time from left to right: (1, 3, H, W) uint8."""
    values = sequence.float().cpu()
    low, high = values.amin(), values.amax()
    gray = (255 * (values - low) / (high - low).clamp(min=1e-12)).byte()
    height, width = STRIP
    steps = max(1, width // gray.shape[1])
    rows = torch.arange(height) * gray.shape[0] // height
    return gray[rows].repeat_interleave(steps, dim=1).expand(1, 3, -1, -1)


def place_point(at: Sequence[float], size: Sequence[int], view: View | None) -> tuple[float, ...]:
    """Turn a point as the user says it, x before y, into the clip's own axes."""
    names = {1: "(step,)", 2: "(x, y)", 3: "(frame, x, y)"}[len(size)]
    if len(at) != len(size):
        raise ValueError(f"at must be {names} here; got {tuple(at)}")
    if view is not None:
        inner: tuple[float, ...] = view.place(at)
    else:
        swapped = (at[0], at[2], at[1]) if len(at) == 3 else tuple(reversed(at))
        inner = tuple(x + 0.5 for x in swapped)  # the middle of the pixel
    if not all(0 <= x <= n for x, n in zip(inner, size, strict=True)):
        axes = " x ".join(map(str, size))
        order = {1: "steps", 2: "height x width", 3: "frames x height x width"}[len(size)]
        cut = " of what the network sees" if view is not None else ""
        raise ValueError(f"at must be a {names} within {axes} ({order}){cut}; got {tuple(at)}")
    return inner


def _pairs(attention: Attention) -> list[tuple[Any, int]]:
    return list(zip(attention.queries, attention.query, strict=True))


def _center(attention: Attention, flat: int) -> list[float]:
    index = np.unravel_index(flat, tuple(attention.weights.shape))
    centers = zip(attention.keys, index, strict=True)
    return [axis.start + int(i) * axis.stride for axis, i in centers]
