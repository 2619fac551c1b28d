"""Draw detections: boxes with names, masks, and skeletons of persons."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import matplotlib
import torch
from PIL import ImageFont
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_keypoints, draw_segmentation_masks

# COCO's pairs of keypoints, counted from 0: "skeleton" in person_keypoints_*2017.json
SKELETON = [
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
]
PERSON = 17  # number of keypoints that the skeleton connects
SURE = 2.0  # smallest logit of a keypoint that is drawn, as in Detectron's pictures
SMALLEST = 480  # pixels: the longer side of a picture on which names can be read
FONT = matplotlib.get_data_path() + "/fonts/ttf/DejaVuSans-Bold.ttf"

Colors = list[Any]  # (red, green, blue) from 0 to 255, one an object


def draw_objects(
    image: Tensor,
    boxes: Tensor,
    names: Sequence[str],
    *,
    masks: Tensor | None = None,
    keypoints: Tensor | None = None,
) -> Tensor:
    """Draw N objects on an image, each in its own color, the first on top.

    Where masks overlap, the smaller one is shown. Lines and letters grow with the image; a small
    image is enlarged by a whole factor, to 480 pixels or more.

    >>> image, boxes = torch.zeros(3, 300, 500, dtype=torch.uint8), torch.tensor([[9, 9, 99, 99]])
    >>> draw_objects(image, boxes, ["cat 0.98"]).shape
    torch.Size([3, 300, 500])

    Args:
        image: uint8 (3, H, W), RGB.
        boxes: (N, 4) x1, y1, x2, y2 in pixels.
        names: text to write on each object.
        masks: bool (N, H, W).
        keypoints: (N, K, 3) x, y and the logit, as `Detections.keypoints`; those with a logit
            above 2 are drawn. COCO's 17 are joined to a skeleton.

    Returns:
        uint8 (3, kH, kW); k is a whole number, and 1 if the longer side has 480 pixels or more.
    """
    k = -(-SMALLEST // max(image.shape[1:]))
    image = _enlarge(image, k)
    if not len(boxes):
        return image
    height, width = image.shape[1:]
    unit = max(height, width) / 640  # COCO's images are so large
    boxes = (boxes * k).clamp(max=torch.tensor([width - 1, height - 1] * 2))
    colors: Colors = [_color(i) for i in range(len(boxes))]
    if masks is not None:
        image = _paint(image, _enlarge(masks, k), colors, alpha=0.45)
    image = draw_bounding_boxes(
        image, boxes.flip(0), colors=colors[::-1], width=max(1, round(1.8 * unit))
    )
    if keypoints is not None:
        points, sure = keypoints[..., :2] * k, keypoints[..., 2] > SURE
        edge, line = (_skeletons(image, points, sure, unit, wider) for wider in (2, 0))
        image = draw_segmentation_masks(image, edge.any(0), alpha=0.7, colors="black")
        image = _paint(image, line, colors, alpha=1)
    return _write(image, boxes, names, colors, max(10, round(12 * unit)))


def _enlarge(pixels: Tensor, k: int) -> Tensor:
    return pixels.repeat_interleave(k, -1).repeat_interleave(k, -2) if k > 1 else pixels


def _color(i: int) -> tuple[int, int, int]:
    """Rotate the hue by the golden ratio, so that each color is far from those before it."""
    red, green, blue = colorsys.hsv_to_rgb(0.08 + i * 0.618034, (0.9, 0.55, 0.75)[i % 3], 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def _paint(image: Tensor, masks: Tensor, colors: Colors, alpha: float) -> Tensor:
    """Draw masks (N, H, W), the smaller on top; torchvision would paint overlaps black."""
    masks, free = masks.clone(), torch.ones(masks.shape[1:], dtype=torch.bool)
    for i in masks.flatten(1).sum(1).argsort().tolist():
        masks[i] &= free
        free &= ~masks[i]
    return draw_segmentation_masks(image, masks, alpha=alpha, colors=colors)


def _skeletons(image: Tensor, points: Tensor, sure: Tensor, unit: float, wider: int) -> Tensor:
    """Mark the persons' points and lines: bool (N, H, W). torchvision draws all in one color."""
    drawn = [
        draw_keypoints(
            torch.zeros_like(image),
            person[None],
            SKELETON if len(person) == PERSON else None,
            "white",
            radius=round(3 * unit) + wider // 2,
            width=round(2.6 * unit) + wider,
            visibility=seen[None],
        )[0]
        > 0
        for person, seen in zip(points, sure, strict=True)
    ]
    return torch.stack(drawn)


def _write(image: Tensor, boxes: Tensor, names: Sequence[str], colors: Colors, size: int) -> Tensor:
    """Write names above their boxes, or inside at the upper border; never beyond a border."""
    height, width = image.shape[1:]
    longest = max(1, *(ImageFont.truetype(FONT, size).getlength(name) for name in names))
    size = max(1, min(size, int(size * (width - 3) / longest)))
    font = ImageFont.truetype(FONT, size)
    places = []
    for name, (left, top) in zip(names, boxes[:, :2].tolist(), strict=True):
        x1, y1, x2, y2 = font.getbbox(name)
        wide, high = x2 - x1 + 3, y2 - y1 + 3  # with torchvision's margin and both borders
        x = max(0, min(left, width - wide))
        y = top - high if top >= high else min(top, height - high)
        places.append([x - x1, y - y1] * 2)
    return draw_bounding_boxes(
        image,
        torch.tensor(places).flip(0),
        list(names)[::-1],
        width=0,
        font=FONT,
        font_size=size,
        colors=colors[::-1],
        label_colors=[_ink(color) for color in colors[::-1]],
        fill_labels=True,
    )


def _ink(color: tuple[int, int, int]) -> str:
    red, green, blue = color
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 110 else "white"
