"""The labels of videos, one or many: a loss and the scores that go with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnet.evaluation.metrics import (
    mean_average_precision,
    mean_class_accuracy,
    top_k_accuracy,
)


class Labels(Protocol):
    """A loss and the scores that go with it."""

    multi_label: bool

    def loss(self, logits: Tensor, target: Tensor) -> Tensor: ...

    def score(self, scores: Tensor, target: Tensor) -> dict[str, float]: ...


class SingleLabel:
    """Softmax cross-entropy; top-1, top-5 and mean class accuracy in percent.

    logits (B, K), target (B,) class indices. Source: paper, section 4.1, without label smoothing.
    """

    multi_label = False

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    def score(self, scores: Tensor, target: Tensor) -> dict[str, float]:
        found = {"top1": 100 * top_k_accuracy(scores, target)}
        if scores.shape[1] > 5:  # of fewer classes it says nothing
            found["top5"] = 100 * top_k_accuracy(scores, target, k=5)
        return found | {"mean_class": 100 * mean_class_accuracy(scores, target)}


class MultiLabel:
    """Sigmoid cross-entropy over K independent classes; mean average precision in percent.

    logits (B, K), target (B, K) of 0 and 1. Source: paper, section 5.2 (Charades).
    """

    multi_label = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        target = target + self.label_smoothing * (0.5 - target)
        return F.binary_cross_entropy_with_logits(logits, target)

    def score(self, scores: Tensor, target: Tensor) -> dict[str, float]:
        return {"map": 100 * mean_average_precision(scores, target)}


def make_labels(multi_label: bool, *, label_smoothing: float = 0.0) -> Labels:
    """Choose by how many labels a video has."""
    return (MultiLabel if multi_label else SingleLabel)(label_smoothing)


def mixed_loss(
    forward: Callable[[Tensor], Tensor], labels: Labels, clips: Tensor, target: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Compute loss and logits of a batch, of its clips or, with alpha above 0, of mixed pairs.

    λ ~ Beta(alpha, alpha), one for the batch: logits of λ x_i + (1 - λ) x_j, loss λ L(y_i) +
    (1 - λ) L(y_j), j from the other end of the batch (Zhang et al. 2018). The paper does not mix.
    """
    if not alpha:
        logits = forward(clips)
        return labels.loss(logits, target), logits
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    logits = forward(share * clips + (1 - share) * clips.flip(0))
    return share * labels.loss(logits, target) + (1 - share) * labels.loss(
        logits, target.flip(0)
    ), logits
