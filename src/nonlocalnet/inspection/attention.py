"""Attention weights of a clip: the rows of each non-local block, computed when they are needed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonlocalnet.inspection.geometry import Grid
from nonlocalnet.ops import Pairwise, affinity
from nonlocalnet.ops.causal import seen
from nonlocalnet.ops.pairwise import SOFTMAX_FORMS

EVEN = 0.1  # `uneven` below this counts as even


def uneven(weights: Tensor, keys: int | Tensor) -> Tensor:
    """Compute how far rows of weights are from uniform: the share that would have to move.

    u = ½ Σ_j |w_j - w̄| / max(Σ_j |w_j|, 1), w̄ = Σ_j w_j / M: 0 if all weights are equal, 1 - 1/M
    if one key has all. A row is called even if u < 0.1. Blocks at initialization, with projections
    of N(0, 0.01), stay below 0.01; trained ones reach 0.4 to 0.9.

    For softmax forms, u is the total variation distance from the uniform row. Weights of the other
    forms can have any sum: rows with a sum below a tenth count as even, since they contribute next
    to nothing to the output. Weights of both signs are uneven.

    >>> import torch
    >>> uneven(torch.tensor([[0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0], [1, -1, 1, -1]]), 4)
    tensor([0.0000, 0.7500, 0.5000])

    Args:
        weights: (..., N); 0 for keys that the query does not see.
        keys: M, the number of keys that it sees; a tensor (...) if queries see different numbers.
    """
    weights = weights.double()
    mean = weights.sum(-1) / keys
    apart = (weights - mean.unsqueeze(-1)).abs().sum(-1) - (weights.shape[-1] - keys) * mean.abs()
    return (apart / 2 / weights.abs().sum(-1).clamp(min=1)).clamp(min=0).float()


def excess(weights: Tensor, keys: int) -> Tensor:
    """Compute by how much each |weight| exceeds the average, with its sign; 0 if it does not.

    >>> import torch
    >>> excess(torch.tensor([0.5, 0.25, -0.25, 0.0]), 4)
    tensor([0.2500, 0.0000, -0.0000, 0.0000])
    """
    size = weights.abs()
    return weights.sign() * (size - size.sum(-1, keepdim=True) / keys).clamp(min=0)


@dataclass(frozen=True)
class Attention:
    """The attention weights of one query position.

    Attributes:
        block: module path of the non-local block.
        query: position in the block's feature map, one index per axis.
        queries, keys: where the positions of the feature map and of the keys lie in the clip.
        weights: f(x_i, x_j) / C(x) on the map of keys, float32; 0 for keys that are not seen.
        pairwise: the block's pairwise function.
        size: length of each axis of the clip.
        seen: number of keys that the query sees; None for all.
        each_frame: whether brightness is relative to the frame of the key (`light`).
    """

    block: str
    query: tuple[int, ...]
    queries: Grid
    keys: Grid
    weights: Tensor
    pairwise: Pairwise
    size: tuple[float, ...]
    seen: int | None = None
    each_frame: bool = False

    @property
    def normalized(self) -> bool:
        """Whether the weights are positive and sum to one (softmax forms)."""
        return self.pairwise in SOFTMAX_FORMS

    @property
    def shares(self) -> Tensor:
        """|weight| divided by the sum of all |weights|; for softmax forms, the weights."""
        size = self.weights.abs()
        return size / size.sum().clamp(min=torch.finfo(size.dtype).tiny)

    @property
    def attends_evenly(self) -> bool:
        """Whether the row is close to uniform, so that there is nothing to see: see `uneven`."""
        return float(uneven(self.weights.flatten(), self.count)) < EVEN

    @property
    def light(self) -> Tensor:
        """Brightness of each key, from -1 to 1: its excess over an even share, largest is ±1.

        0 for keys with at most an even share, and everywhere if the row is even. With
        `each_frame`, even shares and the largest excess are those of the key's frame, whatever the
        frame's share of the attention.
        """
        if self.each_frame:
            rows = self.weights.flatten(1)
            beyond = excess(rows, rows.shape[1])
            most = beyond.abs().amax(1, keepdim=True)
        else:
            beyond = excess(self.weights.flatten(), self.count)
            most = beyond.abs().max()
        shown = beyond * (not self.attends_evenly) / most.clamp(min=1e-30)
        return shown.view_as(self.weights)

    @property
    def count(self) -> int:
        """Number of keys that the query sees."""
        return self.weights.numel() if self.seen is None else self.seen


@dataclass(frozen=True)
class BlockMap:
    """θ and φ of a non-local block for one clip, from which any row of weights is computed.

    Memory is linear in the number of positions: rows are computed when they are needed.

    Attributes:
        name: module path.
        pairwise, scale, extent, group: as in the block.
        queries, keys: where positions and keys lie in the clip.
        theta (B', N', d), phi (B', M', d), w_f: as in the operation.
        query_rows (B', N'), key_rows (B', M'): flattened position of each row.
        clip: length of each axis of the clip.
        heads: number of heads in theta and phi; the weights are the mean over them.
        head: number of the only head in theta and phi, from 1, if one of several was chosen.
    """

    name: str
    pairwise: Pairwise
    scale: float | None
    extent: str
    group: int | None
    queries: Grid
    keys: Grid
    theta: Tensor
    phi: Tensor
    w_f: Tensor | None
    query_rows: Tensor
    key_rows: Tensor
    clip: tuple[float, ...]
    heads: int = 1
    head: int | None = None

    @property
    def shown(self) -> str:
        """Which heads the weights are of, in words; empty if the block has only one."""
        if self.head is not None:
            return f"head {self.head}"
        return f"the mean of {self.heads} heads" if self.heads > 1 else ""

    @property
    def causal_frames(self) -> int | None:
        """Number of frames if a position sees only its own and earlier ones; otherwise None."""
        return self.queries[0].count if self.extent == "causal" else None

    @property
    def size(self) -> tuple[int, ...]:
        """Number of positions along each axis of the feature map."""
        return tuple(axis.count for axis in self.queries)

    @property
    def key_size(self) -> tuple[int, ...]:
        """Number of keys along each axis."""
        return tuple(axis.count for axis in self.keys)

    @cached_property
    def _row_of(self) -> Tensor:
        """The row of each flattened position: (N,) indices into the flattened (B', N')."""
        row_of = torch.empty(self.query_rows.numel(), dtype=torch.long)
        row_of[self.query_rows.flatten()] = torch.arange(self.query_rows.numel())
        return row_of

    def groups(self, positions: Tensor) -> Tensor:
        """Return which of the B' independent groups each flattened position belongs to."""
        return self._row_of[positions] // self.theta.shape[1]

    def sees(self, positions: Tensor) -> Tensor:
        """Tell which keys each of several flattened positions sees: (Q,) -> (Q, M) booleans."""
        found = torch.zeros(len(positions), self.key_rows.numel(), dtype=torch.bool)
        found.scatter_(1, self.key_rows[self.groups(positions)], True)
        if self.causal_frames is not None:
            frame = positions // math.prod(self.size[1:])
            found &= seen(frame, found.shape[1], self.causal_frames)
        return found

    @torch.no_grad()
    def rows(self, positions: Tensor) -> Tensor:
        """Compute the weights of several flattened positions: (Q,) -> (Q, M) float32.

        Of several heads, this is the mean. Keys that a position does not see (extent, temporal
        groups) have weight 0.
        """
        groups, rows = self.groups(positions), self._row_of[positions] % self.theta.shape[1]
        found = torch.zeros(len(positions), self.key_rows.numel())
        for b in groups.unique().tolist():
            here = (groups == b).nonzero()
            weights = affinity(
                self.theta[b : b + 1],
                self.phi[b : b + 1],
                self.pairwise,
                queries=rows[here[:, 0]].to(self.theta.device),
                scale=self.scale,
                w_f=self.w_f,
                heads=self.heads,
                causal_frames=self.causal_frames,
            )[0]
            weights = weights.mean(dim=0) if self.heads > 1 else weights
            found[here, self.key_rows[b]] = weights.float().cpu()
        return found

    def in_order(self) -> tuple[Tensor, Tensor]:
        """Return θ (N, d) and φ (M, d) ordered by flattened position, on the CPU."""
        theta, phi = self.theta.flatten(0, 1).cpu(), self.phi.flatten(0, 1).cpu()
        return theta[self._row_of], phi[self.key_rows.flatten().argsort()]

    def attention(self, at: Sequence[float]) -> Attention:
        """Return the attention of the position nearest to a point of the clip, in pixels."""
        query = tuple(axis.nearest(x) for axis, x in zip(self.queries, at, strict=True))
        return self.attention_of(query)

    def attention_of(self, query: tuple[int, ...]) -> Attention:
        """Return the attention of one position of the feature map."""
        position = torch.tensor([np.ravel_multi_index(query, self.size)])
        weights = self.rows(position)[0].view(self.key_size)
        return Attention(
            self.name,
            query,
            self.queries,
            self.keys,
            weights,
            self.pairwise,
            self.clip,
            int(self.sees(position).sum()),
        )


@dataclass(frozen=True)
class Analysis:
    """The non-local blocks of a network, for one clip.

    Attributes:
        size: length of each axis of the clip: (T,), (H, W) or (T, H, W).
        blocks: by module path, in the network's order.
        output: the network's output for this clip.
    """

    size: tuple[float, ...]
    blocks: Mapping[str, BlockMap]
    output: Any

    def block(self, name: str | int | None = None) -> BlockMap:
        """Return a block by module path or number, from 1; the last one by default.

        Raises:
            ValueError: there is no such block.
        """
        return self.blocks[find_block(name, list(self.blocks))]

    def attention(self, at: Sequence[float], *, block: str | int | None = None) -> Attention:
        """Return the attention of the position nearest to a point.

        Args:
            at: (t, y, x), (y, x) or (t,), in pixels and frames of the clip.
            block: module path or number; the last one by default.

        Raises:
            ValueError: there is no such block, or the point lies outside the clip.
        """
        inside = len(at) == len(self.size) and all(
            0 <= x <= n for x, n in zip(at, self.size, strict=True)
        )
        if not inside:
            raise ValueError(f"at must lie within the clip, {self.size}; got {tuple(at)}")
        return self.block(block).attention(at)


def find_block(block: str | int | None, names: Sequence[str]) -> str:
    """Find a block's module path by the path itself or by number, from 1; None is the last one.

    >>> find_block(2, ["res3.non_local1", "res4.non_local1"])
    'res4.non_local1'

    Raises:
        ValueError: there is no such block.
    """
    if block is None:
        return names[-1]
    if block in names:
        return str(block)
    if isinstance(block, int) and 1 <= block <= len(names):
        return names[block - 1]
    known = ", ".join(f"{i} ({name})" for i, name in enumerate(names, 1))
    near = difflib.get_close_matches(str(block), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"block must be a layer's number or module path: {known}; got {block!r}{hint}")
