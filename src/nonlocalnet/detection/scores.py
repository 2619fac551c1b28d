"""COCO's average precision and recall of boxes, masks and keypoints, over many processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as run_lengths
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
from nonlocalnet.errors import check_choice
from nonlocalnet.runtime.distributed import gather

ScoreKind = Literal["bbox", "segm", "keypoints"]

FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}  # in COCO's files
INPUTS = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}  # in torchvision's outputs

PRECISIONS = ("AP", "AP50", "AP75")
# in COCO's order
NAMES = (*PRECISIONS, "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYPOINT_NAMES = (*PRECISIONS, "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")

# COCO's spread of each keypoint between people who mark it, as a share of the object's size
_TENTHS = (0.26, *(0.25, 0.35, 0.79, 0.72, 0.62, 1.07, 0.87, 0.89))  # nose, then left as right
SIGMAS = {name: _TENTHS[(i + 1) // 2] / 10 for i, name in enumerate(PERSON_KEYPOINTS)}
UNIFORM = 0.067  # their mean, for keypoints that COCO does not know


class CocoEvaluator:
    """Collect the detections of images, then score them as COCO does.

    All images of the annotations count: one that was never added has no detections. Each counts
    once, as the first process of those that added it saw it. Scores are in percent, NaN where no
    object of that size or kind is annotated (COCO's own program says -1).

    Boxes and masks: AP, the mean over categories and the IoUs 0.5, 0.55, ... 0.95; AP50, AP75, at
    one IoU; APs, APm, APl of objects below 32², between, and above 96² pixels; AR1, AR10, AR100,
    the recall with so many detections an image; ARs, ARm, ARl. Keypoints, with their similarity
    (OKS) for the IoU and at most 20 detections: AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl.
    `sigmas` are those of the similarity, one for each keypoint that the categories name: COCO's for
    COCO's names, 0.067 for all (the mean of COCO's) where a name is another; then `known` is False.

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
        annotations: a file of COCO's format; with keypoints person_keypoints_*.json.
        kinds: what is scored: "bbox", "segm", "keypoints".

    Raises:
        ValueError: an unknown kind.
        CocoError: the annotations cannot be read, or have an object without what is to be scored.
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
        """Add what a network found on an image, as torchvision's R-CNNs give it.

        Args:
            image_id: its id in the annotations; one that was added before is passed over.
            detections: labels (N,), category ids or what stands for them (`coco_files.label_of`),
                scores (N,), and what is scored: boxes (N, 4) x1, y1, x2, y2; masks (N, 1, H, W)
                probabilities, above 0.5 is the object; keypoints (N, K, 3) x, y and anything.
            size: (H, W) of the image that the network saw, if it was resized before: boxes, masks
                and keypoints are scaled to the original.

        Raises:
            ValueError: an unknown image, a field that is missing, of another shape or not finite,
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
        """Give the detections of all processes in COCO's result format, ready for JSON.

        One kind, as COCO's server takes them (areas are then those of the kind); without, all in
        one list. In the order of image ids, and on an image in the network's. All processes must
        call it.
        """
        found: dict[int, list[dict[str, Any]]] = {}
        for part in gather(self._found):
            found = part | found  # whoever comes first stays
        rows = [row for image in sorted(found) for row in found[image]]
        return rows if kind is None else _only(rows, kind)

    def scores(self) -> dict[str, dict[str, float]]:
        """Compute the 12 numbers of boxes and masks and the 10 of keypoints, {kind: {name: %}}.

        All processes must call it, and get the same.
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
    """Read what can be scored; refuse the rest."""
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
            continue  # it counts nowhere
        for _, fault in object_faults(annotation, size, parts, keypoints, inside=False):
            raise CocoError(
                path,
                f"annotation {annotation['id']} cannot be scored: {fault}; take it out, "
                "nonlocalnet data check lists all such",
            )
        if "keypoints" in kinds:
            annotation.setdefault("num_keypoints", count_visible(annotation))
        annotation["id"] = number  # 0 would count as never found, and ids may occur twice
    return content


def _only(rows: list[dict[str, Any]], kind: ScoreKind) -> list[dict[str, Any]]:
    """Keep one kind: beside a box, a mask's or keypoints' area would be taken for the box's."""
    keys = ("image_id", "category_id", FIELDS[kind], "score")
    return [{key: row[key] for key in keys} for row in rows]


def _checked(
    image_id: int,
    detections: Mapping[str, Tensor],
    kinds: Sequence[ScoreKind],
    size: tuple[int, int],
    keypoints: int,
) -> dict[str, Tensor]:
    """The fields that are scored, on the CPU, of the right shapes and finite."""
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
                "score other kinds, or take a network that gives them"
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
    """Write masks (N, 1, H, W) as run lengths of an image of `size`."""
    rows = []
    for mask in masks:  # one at a time: a hundred resized ones are half a gigabyte
        if tuple(mask.shape[1:]) != size:
            mask = interpolate(mask[None].float(), size, mode="bilinear")[0]
        rows.append(encode_mask(mask[0] > 0.5))
    return rows


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """Write a mask, bool (H, W), as COCO's run lengths: {"size": [H, W], "counts": text}."""
    coded = run_lengths.encode(np.asfortranarray(mask.numpy()[..., None].astype(np.uint8)))[0]
    return {"size": list(mask.shape), "counts": coded["counts"].decode()}
