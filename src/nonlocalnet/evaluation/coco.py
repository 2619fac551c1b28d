"""COCO's numbers for boxes, masks and keypoints, exact over processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as rle
from torch import Tensor

from nonlocalnet.data.coco import read_annotations
from nonlocalnet.errors import check_choice
from nonlocalnet.runtime.distributed import gather

Kind = Literal["bbox", "segm", "keypoints"]

BOX_NAMES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
KEYPOINT_NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


class CocoEvaluator:
    """Collect a detector's detections, and give COCO's numbers.

    AP is the mean over IoU (keypoints: OKS) of 0.50 to 0.95, over categories and recalls; AR the
    mean recall for so many detections an image; s, m, l are small, medium and large objects.
    Percent; NaN where no object is of that size.

    Args:
        annotations: COCO's JSON: the file, or what it holds.
        kinds: of "bbox", "segm", "keypoints"; the file must have what they are compared with.

    Raises:
        FileNotFoundError, ValueError: no such file, no COCO annotations, an unknown kind.

    Source: COCO's own `pycocotools`, which the tests compare with; the numbers are computed by
    faster-coco-eval, which is maintained and many times as fast.
    """

    def __init__(
        self, annotations: str | Path | Mapping[str, Any], kinds: Sequence[Kind] = ("bbox",)
    ) -> None:
        for kind in kinds:
            check_choice("kind", kind, get_args(Kind))
        self.kinds = tuple(kinds)
        self._truth = COCO(read_annotations(annotations))
        self._images = set(self._truth.getImgIds())
        self._found: dict[int, list[dict[str, Any]]] = {}

    def add(self, image_id: int, detections: Mapping[str, Tensor]) -> None:
        """Take up the detections of one image, as torchvision's R-CNNs give them.

        boxes (N, 4) left, top, right, bottom; labels (N,) categories; scores (N,); masks
        (N, 1, H, W) probabilities; keypoints (N, K, 3). An image that was added before counts once.

        Raises:
            ValueError: the image is not in the annotations.
        """
        if image_id not in self._images:
            raise ValueError(
                f"image {image_id} is not in the annotations: are they of the same split?"
            )
        found = {name: value.detach().cpu() for name, value in detections.items()}
        boxes = found["boxes"].double()
        sizes = boxes[:, 2:] - boxes[:, :2]
        rows = []
        for i in range(len(boxes)):
            row: dict[str, Any] = {
                "image_id": image_id,
                "category_id": int(found["labels"][i]),
                "score": float(found["scores"][i]),
                "bbox": [*boxes[i, :2].tolist(), *sizes[i].tolist()],
            }
            if "masks" in found:
                inside = np.asfortranarray((found["masks"][i, 0] > 0.5).numpy().astype(np.uint8))
                code = rle.encode(inside)
                row["segmentation"] = {"size": list(code["size"]), "counts": _text(code["counts"])}
            if "keypoints" in found:
                points = found["keypoints"][i].double().clone()
                points[:, 2] = 1
                row["keypoints"] = points.flatten().tolist()
            rows.append(row)
        self._found[image_id] = rows

    def detections(self) -> list[dict[str, Any]]:
        """Give all detections of all processes, in COCO's format of results."""
        images: dict[int, list[dict[str, Any]]] = {}
        for share in gather(self._found):
            images.update(share)
        return [row for image_id in sorted(images) for row in images[image_id]]

    def scores(self) -> dict[str, dict[str, float]]:
        """Give the numbers of each kind by name, over the images of all processes.

        12 for boxes and masks, 10 for keypoints. Images without detections count.
        """
        rows = self.detections()
        return {kind: self._score(kind, rows) for kind in self.kinds}

    def _score(self, kind: Kind, rows: list[dict[str, Any]]) -> dict[str, float]:
        names = KEYPOINT_NAMES if kind == "keypoints" else BOX_NAMES
        part = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[kind]
        if any(part not in row for row in rows):
            raise ValueError(f"the detections have no {part}, which {kind} is computed from")
        if not rows:
            return dict.fromkeys(names, 0.0)
        keep = {"image_id", "category_id", "score", part}
        # areas are those of what is compared, as pycocotools takes them for results of one kind
        results = [{key: row[key] for key in row.keys() & keep} for row in rows]
        evaluation = COCOeval_faster(self._truth, self._truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        numbers = [float(value) for value in evaluation.stats[: len(names)]]
        nothing = float("nan")  # -1 there: no object to be found
        return {
            name: nothing if value < 0 else 100 * value
            for name, value in zip(names, numbers, strict=True)
        }


def _text(counts: bytes | str) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts
