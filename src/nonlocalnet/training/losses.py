"""Classification losses: one label per video or many, label smoothing, mixup."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def classification_loss(
    logits: Tensor, target: Tensor, *, multi_label: bool = False, label_smoothing: float = 0.0
) -> Tensor:
    """Compute softmax cross-entropy or, with many labels, the sigmoid cross-entropy of each class.

    Source: paper, sections 4.1 and 5.2 (Charades), without label smoothing.

    Args:
        logits: (B, K).
        target: (B,) class indices, or with `multi_label` (B, K) of 0 and 1.
        multi_label: whether a video has many labels.
        label_smoothing: share of the target that is spread over all classes or, with many labels,
            over both answers.
    """
    if not multi_label:
        return F.cross_entropy(logits, target, label_smoothing=label_smoothing)
    target = target + label_smoothing * (0.5 - target)
    return F.binary_cross_entropy_with_logits(logits, target)


def mixup_loss(
    forward: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    clips: Tensor,
    target: Tensor,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """Compute loss and logits of a batch, with mixup if alpha is above 0 (Zhang et al. 2018).

    λ ~ Beta(alpha, alpha), one for the batch: logits of λ x_i + (1 - λ) x_j, loss λ L(y_i) +
    (1 - λ) L(y_j), with j counted from the end of the batch. The paper does not use mixup.
    """
    if not alpha:
        logits = forward(clips)
        return loss(logits, target), logits
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    logits = forward(share * clips + (1 - share) * clips.flip(0))
    mixed = share * loss(logits, target) + (1 - share) * loss(logits, target.flip(0))
    return mixed, logits
