"""Detect objects in one image, in the pixels of that image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.transforms.v2 import functional as F

from nonlocalnet.detection.annotations import CocoError, read_image
from nonlocalnet.detection.masks import encode_mask
from nonlocalnet.networks.registry import family_of


@dataclass(frozen=True)
class Detections:
    """N objects in an image, by descending score; all tensors are on the CPU.

    Attributes:
        image: uint8 (3, H, W).
        boxes: (N, 4), x1, y1, x2, y2 in pixels of the image.
        labels: int64 (N,).
        scores: probabilities (N,).
        names: class names of the labels.
        masks: bool (N, H, W); Mask R-CNN only.
        keypoints: (N, K, 3); Keypoint R-CNN only: x, y and the logit there in the keypoint's heat
            map, which is not a probability.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    names: list[str]
    masks: Tensor | None = None
    keypoints: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def objects(self) -> list[dict[str, Any]]:
        """Return each object as a dictionary of plain values, ready for JSON.

        Keys are class, label, score, box ([x1, y1, x2, y2] to a hundredth of a pixel), mask (COCO's
        run lengths) and keypoints ([x, y, score]).
        """
        columns: dict[str, list[Any]] = {
            "class": self.names,
            "label": self.labels.tolist(),
            "score": _rounded(self.scores, 4),
            "box": _rounded(self.boxes, 2),
        }
        if self.masks is not None:
            columns["mask"] = [encode_mask(mask) for mask in self.masks]
        if self.keypoints is not None:
            columns["keypoints"] = _rounded(self.keypoints, 2)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@torch.no_grad()
def detect(
    model: nn.Module, image: str | Path | Tensor, *, score: float = 0.5, top: int = 100
) -> Detections:
    """Detect the objects in an image of any size.

    The result is that of the network built with `box_score_thresh=score` and
    `box_detections_per_img=top`; the network's own values of these two are not used.

    >>> from nonlocalnet import create_model
    >>> model = create_model("mask_rcnn_r50_fpn_nl1", num_classes=3, min_size=64, max_size=64)
    >>> found = detect(model, torch.zeros(3, 40, 60), score=0, top=2)
    >>> found.boxes.shape[1:], found.masks.shape[1:]
    (torch.Size([4]), torch.Size([40, 60]))

    Args:
        model: a detector from `create_model`, or another R-CNN of torchvision. It is run in
            evaluation mode, and its mode is restored. Class names come from its `info`; without
            one they are the labels' numbers.
        image: a file, which is rotated according to its EXIF data, or RGB (3, H, W), uint8 or
            float from 0 to 1.
        score: objects with lower scores are left out.
        top: largest number of objects.

    Returns:
        The objects, by descending score.

    Raises:
        ValueError: another kind of network or image, a score outside [0, 1), `top` below 1, or an
            image so narrow that nothing is left of it at the network's size.
        CocoError: a file that is missing, broken, too large or too narrow.
    """
    if family_of(model).takes != "images":
        raise ValueError(
            f"model must be a detector, such as mask_rcnn_r50_fpn_nl1; got a {type(model).__name__}"
        )
    if not 0 <= score < 1 or top < 1:
        raise ValueError(f"score must be in [0, 1) and top at least 1; got {score} and {top}")
    if isinstance(image, Tensor):
        picture = _check(image)
    else:
        picture = F.pil_to_tensor(read_image(Path(image), upright=True))
    if fault := _size_fault(model, picture):
        raise ValueError(fault) if isinstance(image, Tensor) else CocoError(image, fault)
    found = _run(model, picture, score, top)
    masks = found.get("masks")
    if masks is not None:
        boxes, size = found["boxes"], tuple(picture.shape[1:])
        whole = torch.zeros(len(boxes), *size, dtype=torch.bool)
        for i in range(len(boxes)):  # one at a time: as floats, all are gigabytes for a photograph
            pasted = paste_masks_in_image(masks[i : i + 1], boxes[i : i + 1], size)
            whole[i] = pasted[0, 0] > 0.5
        masks = whole
    points = found.get("keypoints")
    if points is not None:
        points = torch.cat([points[..., :2], found["keypoints_scores"][..., None]], dim=-1).cpu()
    labels, info = found["labels"].cpu(), getattr(model, "info", None)
    return Detections(
        F.to_dtype(picture, torch.uint8, scale=True).cpu(),
        found["boxes"].cpu(),
        labels,
        found["scores"].cpu(),
        [str(k) if info is None else info.class_name(k) for k in labels.tolist()],
        masks,
        points,
    )


def _run(model: Any, picture: Tensor, score: float, top: int) -> dict[str, Tensor]:
    """Run the network's forward pass, but keep masks at 28 x 28 pixels of their boxes."""
    heads, was_training = model.roi_heads, model.training
    before = heads.score_thresh, heads.detections_per_img
    image = F.to_dtype(picture.to(next(model.parameters()).device), torch.float32, scale=True)
    try:
        heads.score_thresh, heads.detections_per_img = score, top
        model.eval()
        seen, _ = model.transform([image])
        features = model.backbone(seen.tensors)
        if isinstance(features, Tensor):  # of a backbone without a pyramid
            features = {"0": features}
        proposals, _ = model.rpn(seen, features)
        (found,), _ = heads(features, proposals, seen.image_sizes)
        masks = {"masks": found.pop("masks")} if "masks" in found else {}
        size = tuple(image.shape[1:])
        return model.transform.postprocess([found], seen.image_sizes, [size])[0] | masks
    finally:
        heads.score_thresh, heads.detections_per_img = before
        model.train(was_training)


def _check(image: Tensor) -> Tensor:
    floats = image.is_floating_point()
    if image.ndim != 3 or len(image) != 3 or not (floats or image.dtype == torch.uint8):
        raise ValueError(
            "image must be a file, or RGB (3, H, W) of uint8 or floats; got "
            f"{tuple(image.shape)} of {image.dtype}"
        )
    if floats and not ((image >= 0) & (image <= 1)).all():
        raise ValueError("an image of floats is from 0 to 1; divide it by 255, or pass uint8")
    return image


def _size_fault(model: Any, picture: Tensor) -> str:
    short, long = sorted(picture.shape[1:])
    if min(model.transform.min_size[-1], short * model.transform.max_size / max(long, 1)) >= 1:
        return ""
    height, width = picture.shape[1:]
    return f"an image of {width}x{height} pixels is too narrow to find anything: cut it to pieces"


def _rounded(values: Tensor, decimals: int) -> list[Any]:
    return values.double().round(decimals=decimals).tolist()
