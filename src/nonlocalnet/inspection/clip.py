"""Build the scene of a network that takes videos, images or sequences."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.clips import MEAN, STD, ClipSpec
from nonlocalnet.data.sampling import clip_at
from nonlocalnet.data.transforms import TestTransform, normalize
from nonlocalnet.data.video.open import VideoInfo
from nonlocalnet.data.video.reader import open_reader
from nonlocalnet.inspection.analysis import analyze
from nonlocalnet.inspection.scene import TOP, Scene, View, place_point
from nonlocalnet.networks.registry import family_of
from nonlocalnet.networks.video_resnet import VideoResNet

STRIP = (96, 640)  # height and minimum width of the picture of a sequence, pixels
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def look_at(
    model: nn.Module,
    clip: Tensor | str | os.PathLike,
    *,
    at: Sequence[float] | None = None,
    block: str | int | None = None,
    head: int | None = None,
    top: int = 20,
    title: str = "",
    moment: float | str = 0.5,
    crop: bool = False,
    each_frame: bool = False,
) -> Scene:
    """Build the scene of a video file or of the network's input: see `nl.look`.

    Raises:
        ValueError: as `nl.look`.
        VideoError: the video cannot be read.
    """
    view = None
    if not isinstance(clip, Tensor):
        if Path(clip).suffix.lower() in IMAGES:
            raise ValueError(
                f"{clip} is an image, and this network takes videos: pass a video file, or the "
                "weights of a detector"
            )
        title = title or Path(clip).name
        clip, view = decode_clip(clip, _info_of(model), moment=moment, crop=crop)
    shown = {"top": top, "title": title, "each_frame": each_frame}
    return look_at_clip(model, clip, view, at=at, block=block, head=head, **shown)


def look_at_clip(
    model: nn.Module,
    clip: Tensor,
    view: View | None = None,
    *,
    at: Sequence[float] | None = None,
    block: str | int | None = None,
    head: int | None = None,
    top: int = 20,
    title: str = "",
    each_frame: bool = False,
) -> Scene:
    """Build the scene of a clip in memory; `view` says how it was made from a video.

    Raises:
        ValueError: as `nl.look`.
    """
    info = getattr(model, "info", None)
    frames, given = _pictures(clip, info)
    if each_frame and clip.ndim != 4:
        raise ValueError(f"each_frame is for videos (3, T, H, W); got {tuple(clip.shape)}")
    inner = None if at is None else place_point(at, given.shape[1:], view)
    multi_label = info is not None and info.multi_label
    forward: Callable[[Tensor], Tensor] | None = None
    classifies = isinstance(model, VideoResNet) and model.fc is not None
    if isinstance(model, VideoResNet):
        forward = model.features
        if classifies:
            forward = partial(model.probabilities, multi_label=multi_label)
    analysis = analyze(model, given, forward=forward, head=head)
    analysis.block(block)  # raises if there is no such block
    prediction = []
    if info is not None and classifies:
        best = analysis.output[0].float().cpu().topk(min(TOP, analysis.output.shape[1]))
        prediction = [
            (info.class_name(int(label)), float(p))
            for p, label in zip(best.values, best.indices, strict=True)
        ]
    return Scene(
        *(frames, analysis, title, inner, block, top, prediction, view, multi_label),
        each_frame=each_frame,
    )


def read_clip(
    path: str | os.PathLike,
    model: nn.Module,
    *,
    moment: float | str = 0.5,
    crop: int | Literal["whole"] | None = None,
) -> Tensor:
    """Read a clip of a video file as the input of a network.

    With the defaults, the network sees what it sees in `nl.predict(model, path, num_clips=1)`: the
    clip in the middle of the video, and its center crop.

    Args:
        path: the video.
        model: a network for videos from `nl.load`, which knows clip, size and normalization.
        moment: position of the clip in the video, from 0 (first clip) to 1 (last), or in seconds,
            such as "1.5s": the clip whose center is nearest.
        crop: side of the center crop in pixels, by default the one that the network is tested on;
            "whole" is the whole frame.

    Returns:
        Normalized float32 (1, 3, T, H, W), on the device of the network.

    Raises:
        ValueError: a network without `info`, a moment outside the video, or a crop that does not
            fit.
        VideoError: the video is missing or cannot be decoded.

    >>> import nonlocalnet as nl
    >>> from nonlocalnet.checkpoints.metadata import WeightsInfo
    >>> from nonlocalnet.data.synthetic import write_same_color
    >>> folder = write_same_color("made-up", 2, seed=0)
    >>> model = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="4x2", crop=32)
    >>> model.info = WeightsInfo(model.config, short_side=32)  # which nl.load does
    >>> clip = nl.read_clip(folder / "same" / "00001.mp4", model)
    >>> clip.shape, model(clip).shape
    (torch.Size([1, 3, 4, 32, 32]), torch.Size([1, 2]))
    """
    info = _info_of(model)
    if family_of(model).takes != "videos":
        raise ValueError("read_clip is for networks that take videos; this one takes images")
    side = info.short_side
    transform = TestTransform(crop or info.views.crop or side, side, rule=info.views.rule)
    _, frames, _ = _decode(path, info, moment)
    clip = transform(frames)
    device = next(model.parameters()).device
    return normalize(clip.to(device), info.mean, info.std)


def decode_clip(
    path: str | os.PathLike,
    info: WeightsInfo,
    *,
    moment: float | str = 0.5,
    crop: bool = False,
) -> tuple[Tensor, View]:
    """Decode a clip, scaled to the short side that the network is tested at.

    Args:
        path: the video.
        info: of the network.
        moment: position of the clip in the video, from 0 (first clip) to 1 (last), or in seconds,
            such as "1.5s".
        crop: take the center crop instead of whole frames.

    Returns:
        The clip, uint8 (3, T, H, W), and how it was made from the video.

    Raises:
        ValueError: `moment` is not from 0 to 1, or lies outside the video.
        VideoError: the video cannot be read.
    """
    side = info.short_side
    about, frames, indices = _decode(path, info, moment)
    clip = TestTransform(side if crop else "whole", side)(frames)[0]
    cut_from = TestTransform("whole", side)(frames[:1])[0].shape[2:] if crop else clip.shape[2:]
    corner = ((cut_from[0] - clip.shape[2]) // 2, (cut_from[1] - clip.shape[3]) // 2)
    scale = (cut_from[0] / about.height, cut_from[1] / about.width)
    return clip, View(scale, corner, indices, about.fps)


def _info_of(model: nn.Module) -> WeightsInfo:
    info = getattr(model, "info", None)
    if info is None:
        raise ValueError("this model does not know its clip: load it with nl.load")
    return info


def _decode(
    path: str | os.PathLike, info: WeightsInfo, moment: float | str
) -> tuple[VideoInfo, Tensor, list[int]]:
    """Return facts of the video, the frames of a clip, uint8 (T, 3, H, W), and their indices."""
    spec = ClipSpec.parse(info.config["clip"])
    with open_reader(path) as reader:
        about = reader.info()
        part = _part_of(moment, reader.num_frames, spec.span, about.fps)
        indices = clip_at(reader.num_frames, spec, part)
        return about, reader.frames(indices, short_side=info.short_side), indices


def _part_of(moment: float | str, frames: int, span: int | None, fps: float) -> float:
    """Convert a moment to a position from the first clip (0) to the last (1)."""
    part = moment if isinstance(moment, float | int) else math.nan
    seconds = math.nan
    if isinstance(moment, str) and moment.endswith("s"):
        with contextlib.suppress(ValueError):
            seconds = float(moment[:-1])
    if 0 <= part <= 1:
        return part
    if math.isnan(seconds):
        raise ValueError(
            "moment must be from 0 (first clip) to 1 (last), or seconds such as '1.5s'; "
            f"got {moment!r}"
        )
    if not fps or not 0 <= seconds <= frames / fps:
        lasts = f"lasts {frames / fps:.2f} s" if fps else "does not say how long it lasts"
        raise ValueError(f"moment must lie in the video, which {lasts}; got {moment!r}")
    if span is None:  # segments of the whole video
        return 0.5
    starts = max(frames - span, 0)
    start = min(max(round(seconds * fps - span / 2), 0), starts)
    return (start + 0.5) / starts if start < starts else 1.0


def _pictures(clip: Tensor, info: WeightsInfo | None) -> tuple[Tensor, Tensor]:
    """Return frames to show, uint8 (T, 3, H, W), and the network's input."""
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
