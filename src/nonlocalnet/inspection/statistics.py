"""How widely attention is spread, and how far it reaches, in numbers; and where it tells most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nonlocalnet.inspection.analysis import PAIRS, BlockMap
from nonlocalnet.inspection.even import EVEN, uneven
from nonlocalnet.inspection.geometry import Grid

SAMPLED = 1024  # positions that a block's means are taken over
APART = 0.2  # of the map's sides: how far telling points are from each other


@dataclass(frozen=True)
class Numbers:
    """What a row of weights, or the mean over rows, is like; shares p_j = |w_j| / Σ|w|.

    Attributes:
        uneven: the part of the attention that an even spread would have elsewhere: `even.uneven`.
        entropy: -Σ p ln p, nats; from 0 (one key) to ln M (all alike).
        places: exp(entropy), the number of keys that an even spread of that entropy has.
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

    def plain(self) -> dict[str, float]:
        """Give those that there are, for JSON."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Summary:
    """A block in numbers.

    Attributes:
        mean: over positions.
        even: what they would be if every position saw all of its keys alike.
        common: how alike the rows are: Σ_j min(p_ij, mean_i p_ij), meaned over i; 1 if all
            positions attend to the same keys. None if they do not see the same ones.
        keys: M, how many a position can see.
        sampled: positions that were looked at.
        evenly: whether every one of them attends evenly, so that there is nothing to see.
    """

    mean: Numbers
    even: Numbers
    common: float | None
    keys: int
    sampled: int
    evenly: bool


@dataclass(frozen=True)
class Point:
    """A position worth looking at, and why it was chosen."""

    query: tuple[int, ...]
    own: float  # share of its weight that the mean row does not have

    @property
    def reason(self) -> str:
        """Say it in words."""
        return f"{self.own:.0%} of its attention is where the average point does not look"


def describe(block: BlockMap, queries: Sequence[int]) -> list[Numbers]:
    """Give the numbers of several positions, flattened."""
    found: list[Numbers] = []
    for part in _parts(block, queries):
        table = _measure(block, part, block.rows(part))
        found += [_numbers(row) for row in table.tolist()]
    return found


def summarize(
    block: BlockMap, sampled: int = SAMPLED, within: Sequence[float] | None = None
) -> tuple[Summary, list[Point]]:
    """Describe a block, and choose its most telling positions.

    Looks at `sampled` positions spread evenly over the map, or all if there are fewer; of a padded
    image at those that lie `within` its height and width. Telling are those whose attention is most
    their own, 1 - Σ_j min(p_ij, mean_i p_ij), and not even: concentrated, and not where all others
    look too. Low entropy alone finds corners, which all attend to one place. None lies within a
    fifth of the map's sides of a better one.
    """
    inside = torch.arange(math.prod(block.size))
    if within is not None:
        centers = _centers(block.queries, block.size)
        inside = inside[(centers <= torch.tensor(within)).all(dim=1)]
    total = len(inside)
    positions = inside[torch.linspace(0, total - 1, min(sampled, total)).round().long()]
    tables, evens = [], []
    mean = torch.zeros(math.prod(block.key_size), dtype=torch.float64)
    for part in _parts(block, positions.tolist()):
        rows = block.rows(part)
        tables.append(_measure(block, part, rows))
        evens.append(_measure(block, part, _seen(block, part)))
        mean += _shares(rows).double().sum(0)
    mean /= len(positions)
    alike = torch.cat(
        [
            torch.minimum(_shares(block.rows(part)).double(), mean).sum(1)
            for part in _parts(block, positions.tolist())
        ]
    )
    table = torch.cat(tables)
    summary = Summary(
        _numbers(table.mean(0).tolist()),
        _numbers(torch.cat(evens).mean(0).tolist()),
        float(alike.mean()) if len(block.key_rows) == 1 else None,
        block.key_rows.shape[1],
        len(positions),
        bool((table[:, 0] < EVEN).all()),
    )
    own = torch.where(table[:, 0] < EVEN, 0, 1 - alike)
    return summary, _telling(block, positions, own)


def _telling(block: BlockMap, positions: Tensor, own: Tensor, count: int = 5) -> list[Point]:
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


def _parts(block: BlockMap, positions: Sequence[int]) -> list[Tensor]:
    step = max(1, PAIRS // block.key_rows.numel())
    return list(torch.tensor(positions).split(step))


def _shares(weights: Tensor) -> Tensor:
    size = weights.abs()
    return size / size.sum(dim=1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)


def _seen(block: BlockMap, positions: Tensor) -> Tensor:
    """1 where a position sees a key, (Q, M)."""
    group = block._row_of[positions] // block.query_rows.shape[1]
    seen = torch.zeros(len(positions), block.key_rows.numel())
    return seen.scatter_(1, block.key_rows[group], 1.0)


def _measure(block: BlockMap, positions: Tensor, rows: Tensor) -> Tensor:
    """Compute `Numbers` but for places: weights (Q, M) -> (Q, 5), NaN for none."""
    shares = _shares(rows)
    beside = uneven(rows, block.key_rows.shape[1])
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


def _numbers(row: Sequence[float]) -> Numbers:
    beside, entropy = row[:2]
    same, distance, frames = (None if math.isnan(value) else value for value in row[2:])
    return Numbers(beside, entropy, math.exp(entropy), same, distance, frames)


def _centers(grid: Grid, size: Sequence[int]) -> Tensor:
    """Centers of all positions, flattened: (N, axes)."""
    lines = [axis.start + axis.stride * torch.arange(axis.count) for axis in grid]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).view(-1, len(size)).float()
