"""Statistics of attention: how widely it is spread, how far it reaches, where it is distinctive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonlocalnet.inspection.attention import EVEN, BlockMap, uneven
from nonlocalnet.inspection.geometry import Grid

PAIRS = 1 << 24  # weights in memory at once
SAMPLED = 1024  # positions that the means of a block are taken over
APART = 0.2  # minimum distance of distinctive points, as a part of the map's sides


@dataclass(frozen=True)
class RowStatistics:
    """Statistics of a row of weights, or their mean over rows; shares are p_j = |w_j| / Σ|w|.

    Attributes:
        uneven: the share that would have to move for a uniform row: `attention.uneven`.
        entropy: -Σ p ln p, nats; from 0 (one key) to ln M (uniform).
        places: exp(entropy), the number of keys that a uniform row of that entropy has.
        same_frame: share of the keys at the query's own time; None without time.
        distance: Σ p · distance in the picture, in pixels; None for sequences.
        frames: Σ p · distance in time, in frames of the clip; None for images.
    """

    uneven: float
    entropy: float
    places: float
    same_frame: float | None
    distance: float | None
    frames: float | None

    def to_dict(self) -> dict[str, float]:
        """Return the values that are not None, for JSON."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Summary:
    """Statistics of a block.

    Attributes:
        mean: over positions.
        even: what the mean would be if every position attended uniformly to all of its keys.
        evenly: whether every position attends evenly, so that there is nothing to see.
        common: overlap of the rows: the mean over i of Σ_j min(p_ij, mean_i p_ij); 1 if all
            positions attend to the same keys. None if they do not see the same keys.
        keys: M, the number of keys that a position can see, at most.
        sampled: the number of positions that were measured.
    """

    mean: RowStatistics
    even: RowStatistics
    evenly: bool
    common: float | None
    keys: int
    sampled: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**vars(self), "mean": self.mean.to_dict(), "even": self.even.to_dict()}


@dataclass(frozen=True)
class Point:
    """A position worth looking at.

    Attributes:
        query: position in the block's feature map.
        own: the share of its attention that the mean row does not have.
    """

    query: tuple[int, ...]
    own: float

    @property
    def reason(self) -> str:
        """Why it was chosen, in words."""
        return f"{self.own:.0%} of its attention is where the average point does not look"


def describe(block: BlockMap, queries: Sequence[int]) -> list[RowStatistics]:
    """Return the statistics of several flattened positions."""
    return [
        _to_statistics(row)
        for part in _split(block, torch.tensor(queries))
        for row in _measure(block, part, block.rows(part)).tolist()
    ]


def summarize(
    block: BlockMap, sampled: int = SAMPLED, within: Sequence[float] | None = None
) -> tuple[Summary, list[Point]]:
    """Compute the statistics of a block, and choose its most distinctive positions.

    Distinctive are positions that do not attend evenly and whose attention differs most from the
    average: 1 - Σ_j min(p_ij, mean_i p_ij). Low entropy alone would find corners, which all attend
    to one place. Each is at least a fifth of the map's sides away from those before it.

    Args:
        block: the block, for one clip.
        sampled: the maximum number of positions to measure, spaced evenly over the map.
        within: (height, width) of a padded image: positions in the padding are left out.

    Returns:
        The statistics, and up to five positions, the most distinctive first.
    """
    inside = torch.arange(math.prod(block.size))
    if within is not None:
        centers = _centers(block.queries, block.size)
        inside = inside[(centers <= torch.tensor(within)).all(dim=1)]
    total = len(inside)
    positions = inside[torch.linspace(0, total - 1, min(sampled, total)).round().long()]
    tables, evens = [], []
    mean = torch.zeros(math.prod(block.key_size), dtype=torch.float64)
    for part in _split(block, positions):
        rows = block.rows(part)
        tables.append(_measure(block, part, rows))
        evens.append(_measure(block, part, block.sees(part).float()))
        mean += _shares(rows).double().sum(0)
    mean /= len(positions)
    alike = torch.cat(
        [
            torch.minimum(_shares(block.rows(part)).double(), mean).sum(1)
            for part in _split(block, positions)
        ]
    )
    table = torch.cat(tables)
    evenly = table[:, 0] < EVEN
    same = len(block.key_rows) == 1 and block.causal_frames is None
    summary = Summary(
        mean=_to_statistics(table.mean(0).tolist()),
        even=_to_statistics(torch.cat(evens).mean(0).tolist()),
        evenly=bool(evenly.all()),
        common=float(alike.mean()) if same else None,
        keys=block.key_rows.shape[1],
        sampled=len(positions),
    )
    return summary, _distinctive(block, positions, torch.where(evenly, 0, 1 - alike))


def _distinctive(block: BlockMap, positions: Tensor, own: Tensor, count: int = 5) -> list[Point]:
    points: list[Point] = []
    for i in own.argsort(descending=True).tolist():
        query = tuple(int(k) for k in np.unravel_index(int(positions[i]), block.size))
        near = any(
            all(
                abs(a - b) < APART * n
                for a, b, n in zip(query, other.query, block.size, strict=True)
                if n > 1
            )
            for other in points
        )
        if not near:
            points.append(Point(query, float(own[i])))
        if len(points) == count:
            break
    return points


def _split(block: BlockMap, positions: Tensor) -> tuple[Tensor, ...]:
    """Split positions so that the rows of each part fit into memory."""
    return positions.split(max(1, PAIRS // block.key_rows.numel()))


def _shares(weights: Tensor) -> Tensor:
    size = weights.abs()
    return size / size.sum(dim=1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)


def _measure(block: BlockMap, positions: Tensor, rows: Tensor) -> Tensor:
    """Compute all but `places`: weights (Q, M) -> (Q, 5), NaN for None."""
    shares = _shares(rows)
    beside = uneven(rows, block.sees(positions).sum(1))
    entropy = torch.special.entr(shares).sum(1)
    nothing = torch.full_like(entropy, math.nan)
    query, keys = _centers(block.queries, block.size), _centers(block.keys, block.key_size)
    from_here = query[positions]
    space = list(range(len(block.size)))[-2:] if len(block.size) > 1 else []
    same = distance = frames = nothing
    if space:
        apart = torch.cdist(from_here[:, space], keys[:, space])
        distance = (shares * apart).sum(1)
    if len(block.size) != 2:
        frames = (shares * (from_here[:, :1] - keys[:, 0]).abs()).sum(1)
    if len(block.size) == 3:
        own = [block.keys[0].nearest(t) for t in from_here[:, 0].tolist()]
        times = torch.arange(block.key_size[0]).repeat_interleave(math.prod(block.key_size[1:]))
        same = (shares * (times == torch.tensor(own).unsqueeze(1))).sum(1)
    return torch.stack([beside, entropy, same, distance, frames], dim=1).double()


def _to_statistics(row: Sequence[float]) -> RowStatistics:
    beside, entropy = row[:2]
    same, distance, frames = (None if math.isnan(value) else value for value in row[2:])
    return RowStatistics(beside, entropy, math.exp(entropy), same, distance, frames)


def _centers(grid: Grid, size: Sequence[int]) -> Tensor:
    """Return the centers of all positions, flattened: (N, axes)."""
    lines = [axis.start + axis.stride * torch.arange(axis.count) for axis in grid]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).view(-1, len(size)).float()
