"""What is learned: one label a video, or many."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from nonlocalnet.evaluation.metrics import (
    mean_average_precision,
    mean_class_accuracy,
    top_k_accuracy,
)


class Task(Protocol):
    """A loss and the scores that go with it."""

    multi_label: bool
    main_score: str

    def loss(self, logits: Tensor, target: Tensor) -> Tensor: ...

    def score(self, scores: Tensor, target: Tensor) -> dict[str, float]: ...


class SingleLabel:
    """Softmax cross-entropy; top-1, top-5 and mean class accuracy in percent.

    logits (B, K), target (B,) class indices. Source: paper, section 4.1.
    """

    multi_label = False
    main_score = "top1"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target)

    def score(self, scores: Tensor, target: Tensor) -> dict[str, float]:
        return {
            "top1": 100 * top_k_accuracy(scores, target),
            "top5": 100 * top_k_accuracy(scores, target, k=5),
            "mean_class": 100 * mean_class_accuracy(scores, target),
        }


class MultiLabel:
    """Sigmoid cross-entropy over K independent classes; mean average precision in percent.

    logits (B, K), target (B, K) of 0 and 1. Source: paper, section 5.2 (Charades).
    """

    multi_label = True
    main_score = "map"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target)

    def score(self, scores: Tensor, target: Tensor) -> dict[str, float]:
        return {"map": 100 * mean_average_precision(scores, target)}


def make_task(multi_label: bool) -> Task:
    """Choose the task by the kind of labels."""
    return MultiLabel() if multi_label else SingleLabel()
