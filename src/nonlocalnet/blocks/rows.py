"""Rows of a matrix from positions of a map: (B, c, ...) -> (B', N', c), and back.

Nothing is copied where a view is enough.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_rows(x: Tensor, extent: str, group: int | None) -> Tensor:
    """Gather the positions that attend to each other: (B, c, ...) -> (B', N', c)."""
    if extent == "space":
        return x.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
    if extent == "time":
        return x.permute(0, 3, 4, 2, 1).flatten(0, 2)
    if group is not None:
        x = x.unflatten(2, (-1, group))
        return x.permute(0, 2, 3, 4, 5, 1).flatten(2, 4).flatten(0, 1)
    return x.flatten(2).transpose(1, 2)


def from_rows(y: Tensor, shape: torch.Size, extent: str, group: int | None) -> Tensor:
    """Invert `to_rows` for an x of this shape: (B', N', c) -> (B, c, ...)."""
    batch, _, *size = shape
    if extent == "space":
        return y.unflatten(0, (batch, size[0])).unflatten(2, size[1:]).permute(0, 4, 1, 2, 3)
    if extent == "time":
        return y.unflatten(0, (batch, *size[1:])).permute(0, 4, 3, 1, 2)
    if group is not None:
        y = y.unflatten(0, (batch, -1)).flatten(1, 2)
    return y.transpose(1, 2).unflatten(2, size)
