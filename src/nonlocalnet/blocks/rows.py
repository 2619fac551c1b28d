"""Maps (B, C, ...) and rows (B', N', C): how a block lays out what its operation sees.

Nothing is copied where a view will do: a matrix product reads channels first or last as they lie,
and writes its result in the format that it read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnet.ops.plan import recording
from nonlocalnet.ops.precision import autocast_dtype, product_dtype, without_autocast

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a 1x1x1 convolution as one matrix product: x (B, C, ...), weight (k, C), bias (k,).

    The dtype is that of a convolution, autocast's too; what is multiplied is what the device is
    good at.
    """
    device, size = x.device.type, x.shape[2:]
    result = autocast_dtype(x.dtype, device)
    dtype = product_dtype(result, device)
    with without_autocast(device):
        flat = x.flatten(2).to(dtype)  # (B, C, N)
        matrix = weight.to(dtype).expand(x.shape[0], -1, -1)
        if flat.stride(1) == 1 and flat.shape[1] > 1:  # channels last
            flat, matrix = flat.mT, matrix.mT
            y = _affine(flat, matrix, bias).mT
        else:
            y = _affine(matrix, flat, None if bias is None else bias.unsqueeze(1))
    return y.to(result).unflatten(2, size)


def _affine(x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(x, y) if bias is None else torch.baddbmm(bias.to(x.dtype), x, y)


def pooling(
    x: Tensor, mask: Tensor | None, factors: Sequence[int] | None, *, whole_clips: bool = True
) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """Give the max-pooling of keys that lie as x (B, C, ...), and the mask (B, ...) of its cells.

    Padding takes no part; a cell is real if one of its positions is. Sizes are floored; an axis
    shorter than its factor becomes 1. An exported program may have some masked cells more, but
    not in time unless keys are of `whole_clips`.
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
    """Tell how many places each axis needs to have two cells at least in the example of an export.

    torch takes a size that is 1 in the example for a constant: a map that pools to 1 x 1 there
    would make a program for such maps alone.
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
    """Mask (B, ...) what is left over beside whole cells, where there is room for a cell more."""
    if mask is None:
        mask = x.new_ones(x.shape[0], *x.shape[2:], dtype=torch.bool)
    for axis, (size, k, r) in enumerate(zip(x.shape[2:], factors, room, strict=True)):
        if r:
            place = torch.arange(size, device=x.device)
            whole = (place < size // k * k) | (place < k)  # or the only cell
            mask = mask & whole.view(-1, *[1] * (len(factors) - axis - 1))
    return mask


def to_rows(x: Tensor, extent: str, group: int | None) -> Tensor:
    """Lay positions that see each other in a row: (B, c, ...) -> (B', N', c)."""
    if extent == "space":
        return x.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
    if extent == "time":
        return x.permute(0, 3, 4, 2, 1).flatten(0, 2)
    if group is not None:
        x = x.unflatten(2, (-1, group))
        return x.permute(0, 2, 3, 4, 5, 1).flatten(2, 4).flatten(0, 1)
    return x.flatten(2).transpose(1, 2)


def from_rows(y: Tensor, shape: torch.Size, extent: str, group: int | None) -> Tensor:
    """Undo `to_rows` for an x of that shape: (B', N', c) -> (B, c, ...)."""
    batch, _, *size = shape
    if extent == "space":
        return y.unflatten(0, (batch, size[0])).unflatten(2, size[1:]).permute(0, 4, 1, 2, 3)
    if extent == "time":
        return y.unflatten(0, (batch, *size[1:])).permute(0, 4, 3, 1, 2)
    if group is not None:
        y = y.unflatten(0, (batch, -1)).flatten(1, 2)
    return y.transpose(1, 2).unflatten(2, size)
