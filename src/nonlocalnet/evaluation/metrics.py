"""Scores of predictions: accuracy for one label a video, mean average precision for many."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def top_k_accuracy(scores: Tensor, target: Tensor, k: int = 1) -> float:
    """Compute the share of samples whose class is among the k highest scores.

    scores (N, K) of any floating dtype, target (N,) class indices. k above K counts as K.
    Nothing to score gives NaN.

    >>> import torch
    >>> top_k_accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.5
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (best == target.unsqueeze(1)).any(dim=1).double().mean().item()


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Tell between which shares of all videos the true one lies, in 95 of 100 tests of so many.

    Wilson's score interval (1927), which holds for small counts and shares near 0 and 1 too.

    Args:
        share: found in the test, 0 to 1.
        count: of videos tested; 0 tells nothing.

    >>> low, high = wilson_interval(0.9, 10)
    >>> f"{low:.3f} to {high:.3f}"
    '0.596 to 0.982'
    """
    if not count:
        return 0.0, 1.0
    z = 1.959964  # normal quantile of 97.5%
    center = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (center - reach) / scale), min(1.0, (center + reach) / scale)


def mean_class_accuracy(scores: Tensor, target: Tensor) -> float:
    """Compute the mean over classes of the top-1 accuracy within a class that occurs.

    scores (N, K), target (N,).

    >>> import torch
    >>> mean_class_accuracy(torch.eye(2)[[0, 0, 0, 0]], torch.tensor([0, 0, 0, 1]))
    0.5
    """
    hit = scores.argmax(dim=1) == target
    return torch.stack([hit[target == c].double().mean() for c in target.unique()]).mean().item()


def confusion_matrix(scores: Tensor, target: Tensor) -> Tensor:
    """Count the samples of class i whose highest score is class j: (K, K) int64.

    scores (N, K), target (N,). The diagonal over the sums of the rows is the accuracy per class.

    >>> import torch
    >>> confusion_matrix(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor([[0, 0],
            [1, 1]])
    """
    k = scores.shape[1]
    pairs = target.long() * k + scores.argmax(dim=1)
    return pairs.bincount(minlength=k * k).view(k, k)


def average_precision(scores: Tensor, target: Tensor) -> float:
    """Compute the average precision of one class: Σ_n (R_n - R_{n-1}) P_n.

    P_n and R_n are precision and recall over the samples that score at least as high as the
    n-th; equal scores are one step. scores (N,), target (N,) of 0 and 1. No positive gives NaN.

    >>> import torch
    >>> average_precision(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 1]))
    0.8333333333333333
    """
    order = scores.argsort(descending=True, stable=True)
    scores, target = scores[order], target[order].double()
    hits = target.cumsum(0)
    last_of_ties = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])
    seen = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    hits, seen = hits[last_of_ties], seen[last_of_ties]
    recall_step = torch.diff(hits, prepend=hits.new_zeros(1)) / hits[-1]
    return (recall_step * hits / seen).sum().item()


def mean_average_precision(scores: Tensor, target: Tensor) -> float:
    """Compute the mean over classes of `average_precision`, classes without positives left out.

    scores (N, K), target (N, K) of 0 and 1. The measure of Charades, without weights. Its official
    script breaks ties by the order of the file, ranks videos without any label last, whatever their
    scores, and gives NaN where a class has no positive; elsewhere it gives the same.
    """
    classes = target.sum(dim=0).nonzero().flatten().tolist()
    if not classes:
        return float("nan")
    return sum(average_precision(scores[:, c], target[:, c]) for c in classes) / len(classes)
