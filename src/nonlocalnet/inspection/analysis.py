"""Run a network on a clip and record what its non-local blocks compare."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.blocks.rows import to_rows
from nonlocalnet.inspection.attention import Analysis, BlockMap
from nonlocalnet.inspection.geometry import Grid, find, pooled, traced


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
        model: any network with `NonLocalBlock`s. It is run in evaluation mode; the modes of its
            modules are restored.
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
        name: _map(name, blocks[name], x, find(grids, x.shape[2:], size), size, head)
        for name, x in inputs.items()
        if x.ndim == clip.ndim + 1 and x.shape[0] == 1
    }
    if not found:
        raise ValueError(
            f"no non-local block received a map with the axes of the clip, {size}, and a batch of "
            "one: pass the clip as the network takes it, without the batch"
        )
    return Analysis(size, found, output)


def _map(
    name: str,
    block: NonLocalBlock,
    x: Tensor,
    queries: Grid,
    clip: tuple[int, ...],
    head: int | None,
) -> BlockMap:
    theta, phi, _, rest = block.embed(x)
    heads, w_f = block.heads, rest["w_f"]
    if head is not None:
        if not 1 <= head <= heads:
            raise ValueError(
                f"head must be from 1 to {heads}, the number of heads of {name}; got {head}"
            )
        theta, phi = (x.chunk(heads, dim=2)[head - 1] for x in (theta, phi))
        w_f = None if w_f is None else w_f[: len(w_f) // heads]  # all ones
        heads = 1
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
        w_f=w_f,
        query_rows=numbered(size, group),
        key_rows=numbered(key_size, key_group),
        clip=clip,
        heads=heads,
        head=head,
    )
