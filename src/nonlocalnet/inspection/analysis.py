"""Run a network on a clip and record what its non-local blocks compare."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnet.acceleration.attend import Operands
from nonlocalnet.acceleration.observe import accelerated_blocks, watching
from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.blocks.rows import to_rows
from nonlocalnet.inspection.attention import Analysis, BlockMap
from nonlocalnet.inspection.geometry import Grid, find, pooled, traced
from nonlocalnet.options import Extent


def non_local_blocks(model: nn.Module) -> dict[str, NonLocalBlock]:
    """Return the non-local blocks of a network, by module path."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, NonLocalBlock)
    }


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Switch a network to evaluation mode, and restore the mode of every module afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def analyze(
    model: nn.Module,
    clip: Tensor,
    *,
    forward: Callable[[Tensor], Any] | None = None,
    head: int | None = None,
) -> Analysis:
    """Run a network on a clip and record θ and φ of its non-local blocks.

    Positions are located by the strides, kernels and paddings of the layers
    (`geometry.traced`); spacing them evenly would be off by up to half a cell.

    Args:
        model: any network with `NonLocalBlock`s or accelerated blocks. It is run in evaluation
            mode; the modes of its modules are restored.
        clip: (C, T, H, W), (C, H, W) or (C, T), as the network takes it, without the batch axis.
        forward: called with the batch of one; by default the model.
        head: number of the head to keep of every block, from 1; None keeps all.

    Returns:
        Every block that was run on a feature map with the same axes as the clip.

    Raises:
        ValueError: there is no non-local block, none was run on such a map, or one has no such
            head.

    Source: paper, equation 1 and figure 3.
    """
    blocks, accelerated = non_local_blocks(model), accelerated_blocks(model)
    if not blocks and not accelerated:
        raise ValueError(
            "this network has no non-local block, so no position attends to another; attention of "
            "other projects is seen after nl.accelerate(network)"
        )
    size = tuple(clip.shape[1:])
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, args: inputs.update({name: args[0]})

    handles = [block.register_forward_pre_hook(keep(name)) for name, block in blocks.items()]
    try:
        device = next(model.parameters()).device
        with evaluating(model), traced(model, size) as grids, watching(model) as seen:
            output = (forward or model)(clip.unsqueeze(0).to(device))
    finally:
        for handle in handles:
            handle.remove()
    compared = {
        name: _Compared.of_block(blocks[name], x)
        for name, x in inputs.items()
        if x.ndim == clip.ndim + 1 and x.shape[0] == 1
    } | {
        name: _Compared.of_operands(operands)
        for name, operands in seen.items()
        if len(operands.size) == len(operands.key_size) == len(size) and operands.batch == 1
    }
    found = {
        name: compared[name].map(name, find(grids, compared[name].size, size), size, head)
        for name, _ in model.named_modules()
        if name in compared
    }
    if not found:
        raise ValueError(
            f"no non-local block received a map with the axes of the clip, {size}, and a batch of "
            "one: pass the clip as the network takes it, without the batch"
        )
    return Analysis(size, found, output)


@dataclass(frozen=True)
class _Compared:
    """What a block compares on one clip: θ and φ, and where their rows lie.

    Attributes:
        theta (B', N', d), phi (B', M', d), options: of the operation.
        extent, group, key_group: which positions share a row of the batch.
        size, key_size: of the maps of queries and keys.
        factors: of the pool between them, or None.
    """

    theta: Tensor
    phi: Tensor
    options: dict[str, Any]
    extent: Extent
    group: int | None
    key_group: int | None
    size: tuple[int, ...]
    key_size: tuple[int, ...]
    factors: tuple[int, ...] | None

    @classmethod
    def of_block(cls, block: NonLocalBlock, x: Tensor) -> _Compared:
        theta, phi, _, options = block.embed(x)
        size, group, factors = tuple(x.shape[2:]), block.temporal_group, block.subsample
        key_group = group // factors[0] if group and factors else group
        options = {"pairwise": block.pairwise, **options}
        key_size = block.key_size(size)
        return cls(theta, phi, options, block.extent, group, key_group, size, key_size, factors)

    @classmethod
    def of_operands(cls, operands: Operands) -> _Compared:
        size, key_size = operands.size, operands.key_size
        factors = tuple(max(n // m, 1) for n, m in zip(size, key_size, strict=True))
        return cls(
            operands.theta,
            operands.phi,
            operands.options,
            operands.extent,
            None,
            None,
            size,
            key_size,
            None if size == key_size else factors,
        )

    def map(self, name: str, queries: Grid, clip: tuple[int, ...], head: int | None) -> BlockMap:
        """Place the rows in a clip, of all heads or of one."""
        theta, phi, w_f = self.theta, self.phi, self.options["w_f"]
        heads = self.options["heads"]
        if head is not None:
            if not 1 <= head <= heads:
                raise ValueError(
                    f"head must be from 1 to {heads}, the number of heads of {name}; got {head}"
                )
            theta, phi = (x.chunk(heads, dim=2)[head - 1] for x in (theta, phi))
            w_f = None if w_f is None else w_f[: len(w_f) // heads]  # all ones
            heads = 1
        return BlockMap(
            name=name,
            pairwise=self.options["pairwise"],
            scale=self.options["scale"],
            extent=self.extent,
            group=self.group,
            queries=queries,
            keys=pooled(queries, self.factors, self.key_size),
            theta=theta.float(),
            phi=phi.float(),
            w_f=w_f,
            query_rows=self._numbered(self.size, self.group),
            key_rows=self._numbered(self.key_size, self.key_group),
            clip=clip,
            heads=heads,
            head=head,
        )

    def _numbered(self, size: Sequence[int], group: int | None) -> Tensor:
        """Return the flattened position of each row."""
        positions = torch.arange(math.prod(size)).view(1, 1, *size)
        return to_rows(positions, self.extent, group).squeeze(2)
