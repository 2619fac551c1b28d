"""Learn boxes, with masks or keypoints, from annotated images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonlocalnet.data.coco import CocoDataset
from nonlocalnet.evaluation.coco import CocoEvaluator, ScoreKind
from nonlocalnet.evaluation.detection import evaluate_detector
from nonlocalnet.models.registry import Network
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
        self.data = hashlib.sha256(training.annotations.read_bytes()).hexdigest()
        second: ScoreKind = "keypoints" if training.keypoints else "segm"
        self.kinds: tuple[ScoreKind, ScoreKind] = ("bbox", second)
        self.numbers = (*SHARED, "loss_keypoint" if training.keypoints else "loss_mask")

    def __str__(self) -> str:
        named = sum(name != "N/A" for name in self.classes[1:])
        count, there = len(self.training), len(self.training.coco.imgs)
        of = "" if count == there else f" of {there} (the others have nothing to learn from)"
        return f"{count} training images{of}, {named} classes"

    def check_readable(self) -> None:
        super().check_readable()
        if self.validation is not None:
            CocoEvaluator(self.validation.annotations, self.kinds)  # refuses what it cannot score

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
