"""Max-pooling of the keys of a block, with masks, also in exports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnet.ops.plan import recording

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def pooling(
    x: Tensor, mask: Tensor | None, factors: Sequence[int] | None, *, whole_clips: bool = True
) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """Return a max-pooling for maps shaped like x (B, C, ...), and the mask (B, ...) of its cells.

    Padding takes no part; a cell is real if one of its positions is. Sizes are rounded down; an
    axis shorter than its factor becomes 1. An exported program may add masked cells, along time
    only if keys come from `whole_clips`.
    """
    if factors is None:
        return unchanged, mask
    size = x.shape[2:]
    room = _room(size, factors, whole_clips) if recording() else [0] * len(factors)
    kernel = [k if r else min(k, s) for k, s, r in zip(factors, size, room, strict=True)]
    pads = None
    if any(room):
        pads = [pad for r in reversed(room) for pad in (0, r)]
        mask = _whole_cells(x, mask, factors, room)
    pool = MAX_POOL[len(kernel)]
    if mask is None:
        return partial(pool, kernel_size=kernel), None
    padding = ~mask.unsqueeze(1)
    cells = mask.unsqueeze(1).float()
    cells = pool(cells if pads is None else F.pad(cells, pads), kernel) > 0

    def pool_real(x: Tensor) -> Tensor:
        lowest = torch.finfo(x.dtype).min
        x = x.masked_fill(padding, lowest)
        x = pool(x if pads is None else F.pad(x, pads, value=lowest), kernel)
        return x.masked_fill(~cells, 0)

    return pool_real, cells.squeeze(1)


def unchanged(x: Tensor) -> Tensor:
    return x


def _room(size: Sequence[Any], factors: Sequence[int], whole_clips: bool) -> list[int]:
    """Compute the padding with which each axis has at least two cells in an export's example.

    torch takes a size that is 1 in the example for a constant. A program exported with a map that
    pools to 1 x 1 would therefore accept no other maps.
    """
    room = []
    for axis, (s, k) in enumerate(zip(size, factors, strict=True)):
        example = s.node.hint if isinstance(s, torch.SymInt) and k > 1 else None
        lonely = example is not None and example < 2 * k and (axis > 0 or whole_clips)
        room.append(2 * k - 1 if lonely else 0)
    return room


def _whole_cells(
    x: Tensor, mask: Tensor | None, factors: Sequence[int], room: Sequence[int]
) -> Tensor:
    """Mask (B, ...) positions beyond the last whole cell, of which padding would make a cell."""
    if mask is None:
        mask = x.new_ones(x.shape[0], *x.shape[2:], dtype=torch.bool)
    for axis, (size, k, r) in enumerate(zip(x.shape[2:], factors, room, strict=True)):
        if r:
            place = torch.arange(size, device=x.device)
            whole = (place < size // k * k) | (place < k)  # or the only cell
            mask = mask & whole.view(-1, *[1] * (len(factors) - axis - 1))
    return mask
