"""Look at what the non-local blocks of a detector relate in an image."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_bounding_boxes

from nonlocalnet.data.suffixes import is_video
from nonlocalnet.detection.annotations import read_image
from nonlocalnet.inspection.analysis import analyze, evaluating, non_local_blocks
from nonlocalnet.inspection.attention import Analysis, BlockMap, find_block
from nonlocalnet.inspection.geometry import Axis, pooled
from nonlocalnet.inspection.scene import TOP, Scene, place_point

BACKBONE, KEYPOINT_HEAD = "backbone.", "roi_heads.keypoint_head."
STRIPE, STRIPES = 6, (90, 130)  # of padding: width in pixels, grays

Box = tuple[float, float, float, float]  # x1, y1, x2, y2


def look_at(
    model: Any,
    image: Tensor | str | os.PathLike,
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
    """Build the scene of an image as a detector sees it: resized, normalized and padded.

    Positions are in pixels of the original image. The image is shown at the network's size, with
    the padding at the right and bottom as stripes: the network attends to the padding too, so its
    keys keep their weights. The requested point and the distinctive ones lie in the image.

    Blocks in the keypoint head see one region, 14 x 14 positions spaced evenly over its box: that
    of the highest-scoring detection that contains the point, or of all if no point is requested.

    Args:
        model: it is run in evaluation mode, and its modes are restored.
        image: a file, or (3, H, W), uint8 or float from 0 to 1.
        at: (x, y), a pixel of the image.
        block, head, top, title: as in `nl.look`.
        moment, crop, each_frame: for videos only: must be left at their defaults.

    Raises:
        ValueError: as `nl.look`; or only blocks of the keypoint head are requested, and there is no
            detection at the point.
        CocoError: the file cannot be read.
    """
    if crop or each_frame or moment != 0.5:
        raise ValueError(
            "a detector looks at whole images: leave out moment and crop, and each_frame"
        )
    if not isinstance(image, Tensor):
        title = title or Path(image).name
        image = read_picture(image)
    whole = _check(image, model.transform.max_size)
    point = None if at is None else place_point(at, whole, None)
    names = [n for n in non_local_blocks(model) if n.startswith((BACKBONE, KEYPOINT_HEAD))]
    if not names:
        raise ValueError(
            "this detector has no non-local block in its backbone or keypoint head, so no position "
            "attends to another"
        )
    wanted = names if block is None else [find_block(block, names)]
    device = next(model.parameters()).device
    with evaluating(model.transform):
        pixels = F.to_dtype(image.to(device), torch.float32, scale=True)
        images, _ = model.transform([pixels])
    (inner,) = images.image_sizes
    scale = whole[0] / inner[0], whole[1] / inner[1]  # pixels of the image to one of the network's
    regions: list[Box] = []

    def detect(batch: Tensor) -> dict[str, Tensor]:
        features = model.backbone(batch)
        if isinstance(features, Tensor):
            features = OrderedDict([("0", features)])
        proposals, _ = model.rpn(ImageList(batch, [inner]), features)
        (found,), _ = model.roi_heads(features, proposals, [inner])
        boxes = found["boxes"]
        if point is not None:
            y, x = point[0] / scale[0], point[1] / scale[1]
            x1, y1, x2, y2 = boxes.unbind(1)
            boxes = boxes[(x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)]
        if len(boxes) and any(name.startswith(KEYPOINT_HEAD) for name in names):
            heads: Any = model.roi_heads
            heads.keypoint_head(heads.keypoint_roi_pool(features, [boxes[:1]], [inner]))
            x1, y1, x2, y2 = boxes[0].tolist()
            regions.append((x1 * scale[1], y1 * scale[0], x2 * scale[1], y2 * scale[0]))
        elif all(name.startswith(KEYPOINT_HEAD) for name in wanted):
            where = "" if at is None else f" at {tuple(at)}"
            raise ValueError(
                f"{wanted[-1]} looks at the region of a detection, and this detector found "
                f"nothing{where}: choose another point, image or block"
            )
        return found

    analysis = analyze(model, images.tensors[0], forward=detect, head=head)
    blocks = _placed(model, analysis, scale, regions)
    size = tuple(n * s for n, s in zip(analysis.size, scale, strict=True))
    analysis = Analysis(size, blocks, analysis.output)
    analysis.block(block)  # raises if there is no such block
    frame = _shown(model, images.tensors[0], inner)
    region = regions[0] if regions else None
    if region is not None:
        box = torch.tensor(region).view(2, 2) / torch.tensor(scale).flip(0)
        frame = draw_bounding_boxes(frame, box.view(1, 4), colors="white", width=2)
    return Scene(
        frames=frame.unsqueeze(0),
        analysis=analysis,
        title=title,
        at=point,
        name=block,
        top=top,
        prediction=_prediction(model, analysis.output),
        multi_label=True,
        image=whole,
        region=region,
    )


def read_picture(path: str | os.PathLike) -> Tensor:
    """Decode an image file: uint8 (3, H, W).

    Raises:
        ValueError: it is a video.
        CocoError: it cannot be read.
    """
    if is_video(Path(path).name):
        raise ValueError(
            f"{path} is a video, and this network detects in images: pass an image file, or the "
            "weights of a video network"
        )
    return F.pil_to_tensor(read_image(Path(path), upright=True))


def _check(image: Tensor, longest: Any) -> tuple[int, int]:
    """Give (H, W) of an image that a detector can look at."""
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"a detector takes an image (3, H, W); got {tuple(image.shape)}")
    if image.dtype != torch.uint8:
        low, high = float(image.min()), float(image.max())
        if not image.is_floating_point() or not (low >= 0 and high <= 1):
            raise ValueError(
                "an image for a detector is uint8, or float from 0 to 1, as its own transform "
                f"normalizes it; got {image.dtype} from {low:g} to {high:g}"
            )
    height, width = image.shape[1:]
    if min(height, width) * longest < max(height, width):
        raise ValueError(
            f"an image of {height} x {width} is too long a strip for this detector, which makes "
            f"the longer side {longest} at most"
        )
    return height, width


def _placed(
    model: Any,
    analysis: Analysis,
    scale: tuple[float, float],
    regions: Sequence[Box],
) -> Mapping[str, BlockMap]:
    """Put the blocks' grids on the image: those of the keypoint head over its region."""
    modules = non_local_blocks(model)
    clip = tuple(n * s for n, s in zip(analysis.size, scale, strict=True))
    placed = {}
    for name, block in analysis.blocks.items():
        if name.startswith(BACKBONE):
            queries, keys = (
                tuple(axis.scaled(s) for axis, s in zip(grid, scale, strict=True))
                for grid in (block.queries, block.keys)
            )
        elif name.startswith(KEYPOINT_HEAD) and regions:
            x1, y1, x2, y2 = regions[0]
            sides = Axis((y1 + y2) / 2, y2 - y1, 1), Axis((x1 + x2) / 2, x2 - x1, 1)
            queries = tuple(a.spread(n) for a, n in zip(sides, block.size, strict=True))
            keys = pooled(queries, modules[name].subsample, block.key_size)
        else:  # it saw regions that were not asked for
            continue
        placed[name] = replace(block, queries=queries, keys=keys, clip=clip)
    return placed


def _shown(model: GeneralizedRCNN, x: Tensor, inner: Sequence[int]) -> Tensor:
    """Make what the network was given a picture again: uint8 (3, H, W), its padding striped."""
    _, height, width = x.shape
    mean, std = (
        torch.tensor(values, device=x.device).view(3, 1, 1)
        for values in (model.transform.image_mean, model.transform.image_std)
    )
    down, across = torch.arange(height).unsqueeze(1), torch.arange(width)
    picture = torch.tensor(STRIPES, dtype=torch.uint8)[(down + across) // STRIPE % 2]
    picture = picture.repeat(3, 1, 1)
    colors = (255 * (x * std + mean)).round().clamp(0, 255).byte().cpu()
    picture[:, : inner[0], : inner[1]] = colors[:, : inner[0], : inner[1]]
    return picture


def _prediction(model: GeneralizedRCNN, found: Mapping[str, Tensor]) -> list[tuple[str, float]]:
    """Give the classes that were detected, each with its surest detection's score."""
    info = getattr(model, "info", None)
    best: dict[str, float] = {}
    for label, score in zip(found["labels"].tolist(), found["scores"].tolist(), strict=True):
        if info is not None:
            best.setdefault(info.class_name(label), score)  # the surest one comes first
    return list(best.items())[:TOP]
