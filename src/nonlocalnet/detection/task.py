"""Learn boxes, with masks or keypoints, from annotated images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonlocalnet.detection.annotations import PERSON_KEYPOINTS, CocoError, identify_annotations
from nonlocalnet.detection.dataset import NOTHING, CocoDataset
from nonlocalnet.detection.evaluation import evaluate_detector
from nonlocalnet.detection.scores import CocoEvaluator, ScoreKind
from nonlocalnet.detection.transforms import mirrored
from nonlocalnet.networks.registry import Network
from nonlocalnet.training.tasks import Send, Task

SHARED = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")


class Detection(Task[CocoDataset]):
    """Torchvision's R-CNN losses, summed, and COCO's scores.

    Args:
        training, validation: data sets; validation may be None.
    """

    unit = items = "images"
    multi_label = False

    def __init__(self, training: CocoDataset, validation: CocoDataset | None) -> None:
        self.training, self.validation = training, validation
        self.classes = training.classes
        self.data = identify_annotations(training.annotations)
        second: ScoreKind = "keypoints" if training.keypoints else "segm"
        self.kinds: tuple[ScoreKind, ScoreKind] = ("bbox", second)
        count = len(training.keypoint_names)
        if count not in (0, len(PERSON_KEYPOINTS)):
            self.options = {"num_keypoints": count}
        self.numbers = (*SHARED, "loss_keypoint" if training.keypoints else "loss_mask")

    def __str__(self) -> str:
        named = sum(name != NOTHING for name in self.classes[1:])
        count, there = len(self.training), len(self.training.coco.imgs)
        of = "" if count == there else f" of {there} (the others have nothing to learn from)"
        return f"{count} training images{of}, {named} classes{self._about_keypoints()}"

    def _about_keypoints(self) -> str:
        """Say what is made of keypoints that are not COCO's."""
        names = self.training.keypoint_names
        if names in ((), PERSON_KEYPOINTS):
            return ""
        pairs = sum(place != i for i, place in enumerate(mirrored(names))) // 2
        told = f"{pairs} pairs of them change places" if pairs else "none changes its place"
        return f", {len(names)} keypoints ({told} in mirrored images, by left and right in names)"

    def check_readable(self) -> None:
        super().check_readable()
        if self.validation is None:
            return
        evaluator = CocoEvaluator(self.validation.annotations, self.kinds)  # or it cannot be scored
        ours, theirs = self.classes, self.validation.classes
        strange = [name for i, name in enumerate(theirs) if name not in (NOTHING, *ours[i : i + 1])]
        if strange:
            raise CocoError(
                self.validation.annotations,
                f"has the category {strange[0]!r}, which is none of {self.training.annotations} or "
                "has another id there: give both files the same categories",
            )
        if self.training.keypoints and evaluator.keypoints != self.training.keypoint_names:
            raise CocoError(
                self.validation.annotations,
                f"names other keypoints than {self.training.annotations}: give both files the same",
            )

    def identify(self, data: CocoDataset) -> str:
        return identify_annotations(data.annotations)

    def collate(self, items: list[Any]) -> Any:
        # arrays: each tensor that is sent between processes holds a file open
        used = ("boxes", "labels", "masks", "keypoints")
        return [
            (
                np.asarray(image),
                {name: np.asarray(target[name]) for name in used if name in target},
            )
            for image, target in items
        ]

    def inputs(self, batch: Any, send: Send) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        images = [send(torch.from_numpy(image)).float() / 255 for image, _ in batch]
        targets = [
            {name: send(torch.from_numpy(value)) for name, value in target.items()}
            for _, target in batch
        ]
        return images, targets

    def loss(
        self, forward: Callable[..., dict[str, Tensor]], batch: Any, send: Send
    ) -> tuple[Tensor, list[float]]:
        losses = {name: loss.float() for name, loss in forward(*self.inputs(batch, send)).items()}
        total = torch.stack(list(losses.values())).sum()
        return total, [losses[name].item() for name in self.numbers]

    def words(self, numbers: list[float]) -> list[str]:
        return [
            f"{name.removeprefix('loss_')} {value:.2f}"
            for name, value in zip(self.numbers, numbers, strict=True)
            if "rpn" not in name
        ]

    def validate(
        self,
        network: Network,
        *,
        workers: int,
        dtype: torch.dtype | None,
        on_item: Callable[[int], None],
    ) -> tuple[dict[str, float], int]:
        assert self.validation is not None
        evaluator = CocoEvaluator(self.validation.annotations, self.kinds)
        errors = evaluate_detector(
            network, self.validation, evaluator, workers=workers, dtype=dtype, on_image=on_item
        )
        return flat(evaluator.scores()), len(errors)

    def score_words(self, scores: dict[str, float]) -> str:
        return "  ".join(
            f"{kind} {scores[f'{kind}_AP']:.1f} (AP50 {scores[f'{kind}_AP50']:.1f})"
            for kind in self.kinds
        )


def flat(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """Give each score a name of its own.

    >>> flat({"bbox": {"AP": 38.0}, "segm": {"AP": 34.6}})
    {'bbox_AP': 38.0, 'segm_AP': 34.6}
    """
    return {f"{kind}_{name}": value for kind, of in scores.items() for name, value in of.items()}
