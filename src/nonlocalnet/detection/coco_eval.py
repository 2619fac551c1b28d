"""Compute COCO's average precision and recall of boxes, masks and keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor
from torch.nn.functional import interpolate

from nonlocalnet.detection.annotations import (
    PERSON_KEYPOINTS,
    CocoError,
    count_visible,
    keypoint_names,
    label_of,
    object_faults,
    read_annotations,
)
from nonlocalnet.detection.masks import encode_mask
from nonlocalnet.errors import check_choice
from nonlocalnet.runtime.distributed import all_gather

ScoreKind = Literal["bbox", "segm", "keypoints"]

FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}  # in COCO's files
INPUTS = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}  # in torchvision's outputs

PRECISIONS = ("AP", "AP50", "AP75")
# in COCO's order
NAMES = (*PRECISIONS, "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYPOINT_NAMES = (*PRECISIONS, "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")

# COCO's standard deviation of each keypoint between annotators, relative to the object's size
_TENTHS = (0.26, *(0.25, 0.35, 0.79, 0.72, 0.62, 1.07, 0.87, 0.89))  # nose, then left as right
SIGMAS = {name: _TENTHS[(i + 1) // 2] / 10 for i, name in enumerate(PERSON_KEYPOINTS)}
UNIFORM = 0.067  # the mean, for keypoints that COCO does not have


class CocoEvaluator:
    """Collect detections of images and score them as COCO does.

    All images of the annotations count: an image that is never added has no detections. An image
    that several processes add counts once, with the detections of the first process. Scores are in
    percent, and NaN if no object of that size or kind is annotated (COCO's own program gives -1).

    Boxes and masks: AP, the mean over categories and the IoUs 0.5, 0.55, ... 0.95; AP50 and AP75 at
    one IoU; APs, APm and APl of objects below 32², between, and above 96² pixels; AR1, AR10 and
    AR100, the recall with at most as many detections per image; ARs, ARm, ARl. Keypoints use object
    keypoint similarity (OKS) instead of IoU and at most 20 detections: AP, AP50, AP75, APm, APl,
    AR, AR50, AR75, ARm, ARl. `sigmas` holds the OKS constants, one for each keypoint that the
    categories name: COCO's if COCO has all of the names, otherwise 0.067 (the mean of COCO's) for
    all; then `known` is False.

    >>> import json
    >>> car = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [4, 5, 10, 10]}
    >>> content = {
    ...     "images": [{"id": 7, "file_name": "7.jpg", "height": 30, "width": 40}],
    ...     "categories": [{"id": 3, "name": "car"}],
    ...     "annotations": [car],
    ... }
    >>> _ = Path("cars.json").write_text(json.dumps(content))
    >>> evaluator = CocoEvaluator("cars.json", ["bbox"])
    >>> boxes, labels = torch.tensor([[4, 5, 14, 14]]), torch.tensor([3])  # a row is missing
    >>> evaluator.add(7, {"boxes": boxes, "labels": labels, "scores": torch.tensor([0.9])})
    >>> {name: round(evaluator.scores()["bbox"][name]) for name in ("AP", "AP50", "AR1")}
    {'AP': 90, 'AP50': 100, 'AR1': 90}

    Args:
        annotations: a file in COCO's format; for keypoints person_keypoints_*.json.
        kinds: kinds of scores: "bbox", "segm", "keypoints".

    Raises:
        ValueError: an unknown kind.
        CocoError: the annotations cannot be read, or lack what a kind needs.
    """

    def __init__(
        self, annotations: str | Path, kinds: Sequence[ScoreKind] = ("bbox", "segm")
    ) -> None:
        for kind in kinds:
            check_choice("kinds", kind, get_args(ScoreKind))
        self.kinds = tuple(kinds)
        content = _read(Path(annotations), self.kinds)
        self.keypoints: tuple[str, ...] = ()
        self.sigmas: tuple[float, ...] = ()
        self.known = True
        if "keypoints" in self.kinds:
            self.keypoints = keypoint_names(content)
            self.known = set(self.keypoints) <= set(SIGMAS)
            self.sigmas = tuple(SIGMAS[name] if self.known else UNIFORM for name in self.keypoints)
        self._ids = {label: id for id, label in label_of(content).items()}
        self._truth = COCO(content)
        self._found: dict[int, list[dict[str, Any]]] = {}

    def add(
        self,
        image_id: int,
        detections: Mapping[str, Tensor],
        size: tuple[int, int] | None = None,
    ) -> None:
        """Add the detections of an image, in the form of torchvision's R-CNNs.

        Args:
            image_id: id of the image in the annotations; an id that was added before is ignored.
            detections: labels (N,), as `annotations.label_of` gives them; scores (N,); and for the
                kinds, boxes (N, 4) x1, y1, x2, y2; masks (N, 1, H, W), probabilities with a
                threshold of 0.5; keypoints (N, K, 3), of which x and y are used.
            size: (H, W) of the image that the network saw, if it was resized before. Boxes, masks
                and keypoints are scaled to the original.

        Raises:
            ValueError: an unknown image; a field that is missing, of the wrong shape or not finite;
                or masks of another size than the image.
        """
        image_id = int(image_id)
        image = self._truth.imgs.get(image_id)
        if image is None:
            raise ValueError(
                f"no image with the id {image_id!r} is in the annotations: give the evaluator the "
                "file that the data set was read from"
            )
        if image_id in self._found:
            return
        original = image["height"], image["width"]
        size = size or original
        fields = _checked(image_id, detections, self.kinds, size, len(self.keypoints))
        across, down = original[1] / size[1], original[0] / size[0]
        columns: dict[str, list[Any]] = {}
        if "bbox" in self.kinds:
            boxes = fields["boxes"].double() * torch.tensor([across, down] * 2).double()
            boxes[:, 2:] -= boxes[:, :2]
            columns["bbox"] = boxes.tolist()
        if "segm" in self.kinds:
            columns["segmentation"] = _encode(fields["masks"], original)
        if "keypoints" in self.kinds:
            points = fields["keypoints"].double() * torch.tensor([across, down, 1.0]).double()
            columns["keypoints"] = points.flatten(1).tolist()
        labels = fields["labels"].tolist()
        columns["category_id"] = [self._ids.get(label, label) for label in labels]
        columns["score"] = fields["scores"].double().tolist()
        self._found[image_id] = [
            {"image_id": image_id, **dict(zip(columns, row, strict=True))}
            for row in zip(*columns.values(), strict=True)
        ]

    def detections(self, kind: ScoreKind | None = None) -> list[dict[str, Any]]:
        """Return the detections of all processes in COCO's result format, ready for JSON.

        All processes must call this method.

        Args:
            kind: the fields of one kind, as COCO's server expects them; None for all fields.

        Returns:
            Detections by ascending image id, and within an image in the network's order.
        """
        found: dict[int, list[dict[str, Any]]] = {}
        for part in all_gather(self._found):
            found = part | found  # the first process counts
        rows = [row for image in sorted(found) for row in found[image]]
        return rows if kind is None else _only(rows, kind)

    def scores(self) -> dict[str, dict[str, float]]:
        """Compute the 12 scores of boxes and masks and the 10 of keypoints: {kind: {name: %}}.

        All processes must call this method; it returns the same to all.
        """
        rows = self.detections()
        return {kind: self._score(kind, _only(rows, kind)) for kind in self.kinds}

    def _score(self, kind: ScoreKind, rows: list[dict[str, Any]]) -> dict[str, float]:
        evaluation = COCOeval_faster(
            self._truth,
            self._truth.loadRes(rows),
            kind,
            kpt_oks_sigmas=list(self.sigmas) if kind == "keypoints" else None,
        )
        evaluation.params.catIds = sorted(self._truth.cats)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        names = KEYPOINT_NAMES if kind == "keypoints" else NAMES
        numbers = [float(number) for number in evaluation.stats]
        return {
            name: float("nan") if number < 0 else 100 * number
            for name, number in zip(names, numbers, strict=True)
        }


def _read(path: Path, kinds: Sequence[ScoreKind]) -> dict[str, Any]:
    """Read annotations; raise a CocoError if an object cannot be scored."""
    content = read_annotations(path)
    parts = [FIELDS[kind] for kind in kinds]
    try:
        keypoints = len(keypoint_names(content)) if "keypoints" in kinds else 0
    except ValueError as error:
        raise CocoError(path, str(error)) from None
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for number, annotation in enumerate(content["annotations"], 1):
        size = sizes.get(annotation["image_id"])
        if size is None:
            continue  # it does not count
        for _, fault in object_faults(annotation, size, parts, keypoints, inside=False):
            raise CocoError(
                path,
                f"annotation {annotation['id']} cannot be scored: {fault}; remove it "
                "(nonlocalnet data check lists all of them)",
            )
        if "keypoints" in kinds:
            annotation.setdefault("num_keypoints", count_visible(annotation))
        annotation["id"] = number  # 0 would count as not found, and ids may occur twice
    return content


def _only(rows: list[dict[str, Any]], kind: ScoreKind) -> list[dict[str, Any]]:
    """Keep the fields of one kind: with a box, the area of masks and keypoints would be its."""
    keys = ("image_id", "category_id", FIELDS[kind], "score")
    return [{key: row[key] for key in keys} for row in rows]


def _checked(
    image_id: int,
    detections: Mapping[str, Tensor],
    kinds: Sequence[ScoreKind],
    size: tuple[int, int],
    keypoints: int,
) -> dict[str, Tensor]:
    """Return the fields to score on the CPU; raise a ValueError if one is unusable."""
    shapes = {
        "labels": (),
        "scores": (),
        "boxes": (4,),
        "masks": (1, *size),
        "keypoints": (keypoints, 3),
    }
    fields = {}
    for name in ("labels", "scores", *(INPUTS[kind] for kind in kinds)):
        if name not in detections:
            raise ValueError(
                f"image {image_id}: the detections have no {name}, only {', '.join(detections)}; "
                "score other kinds, or use a network that predicts them"
            )
        field = fields[name] = detections[name].detach().cpu()
        wanted = (len(detections["labels"]), *shapes[name])
        if tuple(field.shape) != wanted:
            raise ValueError(
                f"image {image_id}: {name} must be {wanted}, got {tuple(field.shape)}"
                + ("; pass the size (H, W) that the network saw" if name == "masks" else "")
            )
        if name != "masks" and not field.isfinite().all():  # masks are large, and NaN is below 0.5
            raise ValueError(f"image {image_id}: {name} are not all finite, so training diverged")
    return fields


def _encode(masks: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Write masks (N, 1, H, W) as run lengths, resized to an image of `size`."""
    rows = []
    for mask in masks:  # one at a time: a hundred resized masks take half a gigabyte
        if tuple(mask.shape[1:]) != size:
            mask = interpolate(mask[None].float(), size, mode="bilinear")[0]
        rows.append(encode_mask(mask[0] > 0.5))
    return rows
