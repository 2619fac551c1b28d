"""What every position of a clip attends to in the non-local blocks of a network, row by row."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.blocks.rows import to_rows
from nonlocalnet.inspection.even import EVEN, excess, uneven
from nonlocalnet.inspection.geometry import Grid, find, pooled, traced
from nonlocalnet.ops import Pairwise, affinity
from nonlocalnet.ops.pairwise import SOFTMAX_FORMS

PAIRS = 1 << 24  # weights in memory at once


@dataclass(frozen=True)
class Attention:
    """The weights with which one position sees all keys.

    Attributes:
        block: the module path of the non-local block.
        query: the position in the block's map, one index an axis.
        queries, keys: where the positions of the map and of the keys lie in the clip.
        weights: f(x_i, x_j) / C(x) on the map of keys, float32; 0 where the query does not see.
        pairwise: the block's pairwise function.
        size: of the clip's axes.
        seen: how many keys the query sees; None is all.
    """

    block: str
    query: tuple[int, ...]
    queries: Grid
    keys: Grid
    weights: Tensor
    pairwise: Pairwise
    size: tuple[float, ...]
    seen: int | None = None

    @property
    def normalized(self) -> bool:
        """Whether weights are positive and sum to one (softmax forms)."""
        return self.pairwise in SOFTMAX_FORMS

    @property
    def shares(self) -> Tensor:
        """|weight| over the sum of all |weights|: those of the softmax forms as they are."""
        size = self.weights.abs()
        return size / size.sum().clamp(min=torch.finfo(size.dtype).tiny)

    @property
    def attends_evenly(self) -> bool:
        """Whether the row is even, so that there is nothing to see: see `even.uneven`."""
        return float(uneven(self.weights.flatten(), self.count)) < EVEN

    @property
    def light(self) -> Tensor:
        """What each key has beyond an even share, relative to the most: from -1 to 1, on the keys.

        0 where a key has no more than an even share, and everywhere if the row is even.
        """
        beyond = excess(self.weights.flatten(), self.count).view_as(self.weights)
        return beyond * (not self.attends_evenly) / beyond.abs().max().clamp(min=1e-30)

    @property
    def count(self) -> int:
        """How many keys the query sees."""
        return self.weights.numel() if self.seen is None else self.seen


@dataclass(frozen=True)
class BlockMap:
    """A non-local block's θ and φ of one clip: all that its weights are made of.

    Memory is linear in the positions; rows are computed when they are asked for.

    Attributes:
        name: module path.
        pairwise, scale, extent, group: as the block's.
        queries, keys: where positions and keys lie in the clip.
        theta (B', N', d), phi (B', M', d), w_f: as the operation takes them.
        query_rows (B', N'), key_rows (B', M'): the flattened position of each row.
        clip: size of the clip's axes.
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

    @property
    def size(self) -> tuple[int, ...]:
        """Positions along each axis of the map."""
        return tuple(axis.count for axis in self.queries)

    @property
    def key_size(self) -> tuple[int, ...]:
        """Keys along each axis."""
        return tuple(axis.count for axis in self.keys)

    @cached_property
    def _row_of(self) -> Tensor:
        """Where a flattened position is among the rows: (N,) indices into (B', N') flattened."""
        row_of = torch.empty(self.query_rows.numel(), dtype=torch.long)
        row_of[self.query_rows.flatten()] = torch.arange(self.query_rows.numel())
        return row_of

    @torch.no_grad()
    def rows(self, positions: Tensor) -> Tensor:
        """Compute the weights of several positions: (Q,) flattened -> (Q, M) float32.

        Keys that a position does not see (extent, temporal groups) have weight 0.
        """
        group, row = (
            part.tolist()
            for part in (
                self._row_of[positions] // self.theta.shape[1],
                self._row_of[positions] % self.theta.shape[1],
            )
        )
        found = torch.zeros(len(positions), self.key_rows.numel())
        for b in set(group):
            here = [i for i, other in enumerate(group) if other == b]
            weights = affinity(
                self.theta[b : b + 1],
                self.phi[b : b + 1],
                self.pairwise,
                queries=torch.tensor([row[i] for i in here], device=self.theta.device),
                scale=self.scale,
                w_f=self.w_f,
            )[0]
            index = torch.tensor(here).unsqueeze(1), self.key_rows[b].unsqueeze(0)
            found[index] = weights.float().cpu()
        return found

    def in_order(self) -> tuple[Tensor, Tensor]:
        """Give θ (N, d) and φ (M, d) by flattened position, on the CPU."""
        theta, phi = self.theta.flatten(0, 1).cpu(), self.phi.flatten(0, 1).cpu()
        return theta[self._row_of], phi[self.key_rows.flatten().argsort()]

    def attention(self, at: Sequence[float]) -> Attention:
        """Give the weights of the position nearest to a point of the clip, in pixels."""
        query = tuple(axis.nearest(x) for axis, x in zip(self.queries, at, strict=True))
        return self.attention_of(query)

    def attention_of(self, query: tuple[int, ...]) -> Attention:
        """Give the weights of one position of the map."""
        position = int(np.ravel_multi_index(query, self.size))
        weights = self.rows(torch.tensor([position]))[0].view(self.key_size)
        return Attention(
            self.name,
            query,
            self.queries,
            self.keys,
            weights,
            self.pairwise,
            self.clip,
            self.key_rows.shape[1],
        )


@dataclass(frozen=True)
class Analysis:
    """A clip as a network's non-local blocks see it.

    Attributes:
        size: of the clip's axes: (T,), (H, W) or (T, H, W).
        blocks: by module path, in the network's order.
        output: what the network computed, for this clip.
    """

    size: tuple[float, ...]
    blocks: Mapping[str, BlockMap]
    output: Any

    def block(self, name: str | int | None = None) -> BlockMap:
        """Give a block by module path or by its number, from 1; the last one by default.

        Raises:
            ValueError: there is no such block.
        """
        return self.blocks[find_block(name, list(self.blocks))]

    def attention(self, at: Sequence[float], *, block: str | int | None = None) -> Attention:
        """Give what the position nearest to a point attends to.

        Args:
            at: (t, y, x), (y, x) or (t,), in pixels and frames of the clip.
            block: module path or number; the last one by default.

        Raises:
            ValueError: no such block, or a point outside the clip.
        """
        inside = len(at) == len(self.size) and all(
            0 <= x <= n for x, n in zip(at, self.size, strict=True)
        )
        if not inside:
            raise ValueError(f"at must lie within the clip, {self.size}; got {tuple(at)}")
        return self.block(block).attention(at)


def non_local_blocks(model: nn.Module) -> dict[str, NonLocalBlock]:
    """Find the non-local blocks of a network, by module path."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, NonLocalBlock)
    }


def find_block(block: str | int | None, names: Sequence[str]) -> str:
    """Find a block's module path by itself or by its number, from 1; None is the last one.

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


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Put a network into evaluation mode, and every module of it back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def analyze(
    model: nn.Module, clip: Tensor, *, forward: Callable[[Tensor], Any] | None = None
) -> Analysis:
    """Run a network on a clip, and keep what its non-local blocks compare.

    Args:
        model: any network with `NonLocalBlock`s; run in evaluation mode, and put back.
        clip: (C, T, H, W), (C, H, W) or (C, T), as the network takes it, without the batch.
        forward: what to call with the batch of one; by default the model.

    Returns:
        θ and φ of every block that took part and whose map has the axes of the clip.

    Raises:
        ValueError: no non-local block, or none that took part.

    Source: paper, equation 1 and figure 3. Positions are placed by the layers' strides, kernels
    and paddings (`geometry.traced`), which even laying would miss by up to half a cell.
    """
    blocks = non_local_blocks(model)
    if not blocks:
        raise ValueError("this network has no non-local block, so no position attends to another")
    size = tuple(clip.shape[1:])
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, args: inputs.update({name: args[0]})

    handles = [block.register_forward_pre_hook(keep(name)) for name, block in blocks.items()]
    try:
        device = next(model.parameters()).device
        with evaluating(model), traced(model, size) as grids:
            output = (forward or model)(clip.unsqueeze(0).to(device))
    finally:
        for handle in handles:
            handle.remove()
    found = {
        name: _map(name, blocks[name], x, find(grids, x.shape[2:], size), size)
        for name, x in inputs.items()
        if x.ndim == clip.ndim + 1 and x.shape[0] == 1
    }
    if not found:
        raise ValueError(
            f"no non-local block was given a map with the axes of the clip, {size}, and a batch of "
            "one: pass the clip as the network takes it, without the batch"
        )
    return Analysis(size, found, output)


def _map(
    name: str, block: NonLocalBlock, x: Tensor, queries: Grid, clip: tuple[int, ...]
) -> BlockMap:
    theta, phi, _, rest = block.embed(x)
    size = tuple(x.shape[2:])
    key_size = block.key_size(size)
    group = block.temporal_group
    key_group = group // block.subsample[0] if group and block.subsample else group

    def numbered(size: Sequence[int], group: int | None) -> Tensor:
        positions = torch.arange(math.prod(size)).view(1, 1, *size)
        return to_rows(positions, block.extent, group).squeeze(2)

    return BlockMap(
        name=name,
        pairwise=block.pairwise,
        scale=rest["scale"],
        extent=block.extent,
        group=group,
        queries=queries,
        keys=pooled(queries, block.subsample, key_size),
        theta=theta.float(),
        phi=phi.float(),
        w_f=rest["w_f"],
        query_rows=numbered(size, group),
        key_rows=numbered(key_size, key_group),
        clip=clip,
    )
