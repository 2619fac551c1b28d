"""Maps (B, C, ...) and rows (B', N', C): how a block lays out what its operation sees.

Nothing is copied where a view will do: a matrix product reads channels first or last as they lie,
and writes its result in the format that it read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

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


def max_pool(
    x: Tensor, mask: Tensor | None, factors: Sequence[int] | None
) -> tuple[Tensor, Tensor | None]:
    """Max-pool keys x (B, C, ...) and their mask (B, ...); padding takes no part.

    A cell is real if one of its positions is. Sizes are floored; an axis shorter than its factor
    becomes 1.
    """
    if factors is None:
        return x, mask
    kernel = [min(k, s) for k, s in zip(factors, x.shape[2:], strict=True)]
    pool = MAX_POOL[len(kernel)]
    if mask is None:
        return pool(x, kernel), None
    x = pool(x.masked_fill(~mask.unsqueeze(1), torch.finfo(x.dtype).min), kernel)
    mask = pool(mask.unsqueeze(1).float(), kernel) > 0
    return x.masked_fill(~mask, 0), mask.squeeze(1)


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
