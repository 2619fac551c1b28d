"""The scores of validation: what each is called, how it is said, and by which runs are judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A number of a validation line of metrics.jsonl, in percent.

    Attributes:
        name: in files.
        label: in tables and pictures.
        main: whether runs that have it are judged by it.
        higher: whether more is better.
    """

    name: str
    label: str
    main: bool = False
    higher: bool = True

    def best(self, values: Iterable[float]) -> float | None:
        """Give the best of some values; None of none."""
        return (max if self.higher else min)(values, default=None)


SCORES = {
    score.name: score
    for score in (
        Score("map", "mAP", main=True),
        Score("top1", "top-1", main=True),
        Score("top5", "top-5"),
        Score("mean_class", "mean class accuracy"),
        Score("segm_AP", "mask AP", main=True),
        Score("keypoints_AP", "keypoint AP", main=True),
        Score("bbox_AP", "box AP"),
    )
}


def find_score(name: str) -> Score:
    """Give what is known of a score; one that is not known is called by its name."""
    return SCORES.get(name, Score(name, name))


def main_score(names: Iterable[str]) -> Score | None:
    """Give the score among these by which a run is judged.

    >>> main_score(["bbox_AP", "segm_AP", "segm_AP50"]).label
    'mask AP'
    """
    names = set(names)
    return next((score for score in SCORES.values() if score.main and score.name in names), None)
