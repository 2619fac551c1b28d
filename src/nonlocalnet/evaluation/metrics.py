"""Metrics: one table says what each is called, how it is computed, and whether higher is better.

To add a metric, write its function and add its row to `METRICS`: `train`, `test`, `runs` and `plot`
take it from there. Importing this module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def top_k_accuracy(scores: Tensor, target: Tensor, k: int = 1) -> float:
    """Compute the share of samples whose class is among the k highest scores.

    Args:
        scores: (N, K) of any floating dtype.
        target: (N,) class indices.
        k: more than K counts as K.

    Returns:
        A share, 0 to 1; NaN without samples.

    >>> import torch
    >>> top_k_accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.5
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (best == target.unsqueeze(1)).any(dim=1).double().mean().item()


def mean_class_accuracy(scores: Tensor, target: Tensor) -> float:
    """Compute the top-1 accuracy of each class that occurs, and return their mean.

    Args:
        scores: (N, K).
        target: (N,) class indices.

    >>> import torch
    >>> mean_class_accuracy(torch.eye(2)[[0, 0, 0, 0]], torch.tensor([0, 0, 0, 1]))
    0.5
    """
    import torch

    hit = scores.argmax(dim=1) == target
    return torch.stack([hit[target == c].double().mean() for c in target.unique()]).mean().item()


def average_precision(scores: Tensor, target: Tensor) -> float:
    """Compute the average precision of one class: Σ_n (R_n - R_{n-1}) P_n.

    P_n and R_n are precision and recall over the samples that score at least as high as the
    n-th; equal scores are one step.

    Args:
        scores: (N,).
        target: (N,) of 0 and 1.

    Returns:
        A share, 0 to 1; NaN without a positive sample.

    >>> import torch
    >>> average_precision(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 1]))
    0.8333333333333333
    """
    import torch

    order = scores.argsort(descending=True, stable=True)
    scores, target = scores[order], target[order].double()
    hits = target.cumsum(0)
    last_of_ties = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])
    seen = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    hits, seen = hits[last_of_ties], seen[last_of_ties]
    recall_step = torch.diff(hits, prepend=hits.new_zeros(1)) / hits[-1]
    return (recall_step * hits / seen).sum().item()


def mean_average_precision(scores: Tensor, target: Tensor) -> float:
    """Compute the mean of `average_precision` over the classes that have a positive sample.

    This is the metric of Charades, without weights. Its official script breaks ties by the order of
    the file, ranks videos without a label last, whatever their scores, and gives NaN if a class has
    no positive sample; otherwise its result is the same.

    Args:
        scores: (N, K).
        target: (N, K) of 0 and 1.

    Returns:
        A share, 0 to 1; NaN if no class has a positive sample.
    """
    classes = target.sum(dim=0).nonzero().flatten().tolist()
    if not classes:
        return float("nan")
    return sum(average_precision(scores[:, c], target[:, c]) for c in classes) / len(classes)


@dataclass(frozen=True)
class Metric:
    """A metric of a validation or a test; its values are in percent.

    Attributes:
        name: in files.
        label: in tables and figures.
        compute: maps probabilities (N, K) and targets to a share from 0 to 1; None if the metric is
            computed elsewhere, as COCO's are.
        multi_label: whether `compute` takes targets (N, K) of 0 and 1, not class indices (N,).
        main: whether runs are compared by it; of several, by the first in the table.
        higher: whether higher is better.
        min_classes: the fewest classes for which it says something.
        proportion: whether it is a share of videos, which has a confidence interval.
    """

    name: str
    label: str
    compute: Callable[[Tensor, Tensor], float] | None = None
    multi_label: bool = False
    main: bool = False
    higher: bool = True
    min_classes: int = 1
    proportion: bool = False

    def best(self, values: Iterable[float]) -> float | None:
        """Return the best of some values; None if there are none."""
        return (max if self.higher else min)(values, default=None)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("map", "mAP", mean_average_precision, multi_label=True, main=True),
        Metric("top1", "top-1", top_k_accuracy, main=True, proportion=True),
        Metric("top5", "top-5", partial(top_k_accuracy, k=5), min_classes=6, proportion=True),
        Metric("mean_class", "mean class accuracy", mean_class_accuracy),
        Metric("segm_AP", "mask AP", main=True),
        Metric("keypoints_AP", "keypoint AP", main=True),
        Metric("bbox_AP", "box AP"),
    )
}


def compute_metrics(
    probabilities: Tensor, target: Tensor, *, multi_label: bool
) -> dict[str, float]:
    """Compute all metrics of the table that suit the targets.

    Args:
        probabilities: (N, K).
        target: (N,) class indices, or with `multi_label` (N, K) of 0 and 1.
        multi_label: whether a video has many labels.

    Returns:
        Values in percent, by name.

    >>> import torch
    >>> compute_metrics(torch.eye(2)[[0, 0, 0, 0]], torch.tensor([0, 0, 0, 1]), multi_label=False)
    {'top1': 75.0, 'mean_class': 50.0}
    """
    return {
        metric.name: 100 * metric.compute(probabilities, target)
        for metric in METRICS.values()
        if metric.compute is not None
        and metric.multi_label == multi_label
        and metric.min_classes <= probabilities.shape[1]
    }


def find_metric(name: str) -> Metric:
    """Return the metric of a name; an unknown one has its name as label."""
    return METRICS.get(name, Metric(name, name))


def main_metric(names: Iterable[str]) -> Metric | None:
    """Return the metric, among these names, that runs are compared by; None if there is none.

    >>> main_metric(["bbox_AP", "segm_AP", "segm_AP50"]).label
    'mask AP'
    """
    names = set(names)
    return next((m for m in METRICS.values() if m.main and m.name in names), None)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Compute Wilson's 95% interval (1927) of a share, valid for small counts and extreme shares.

    Args:
        share: found in the test, 0 to 1.
        count: of videos tested; 0 gives the interval (0, 1).

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


def confusion_matrix(scores: Tensor, target: Tensor) -> Tensor:
    """Count the samples of class i whose highest score is class j: (K, K) int64.

    The diagonal over the sums of the rows is the accuracy per class.

    Args:
        scores: (N, K).
        target: (N,) class indices.

    >>> import torch
    >>> confusion_matrix(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor([[0, 0],
            [1, 1]])
    """
    k = scores.shape[1]
    pairs = target.long() * k + scores.argmax(dim=1)
    return pairs.bincount(minlength=k * k).view(k, k)
