"""A clip (B, C, T, H, W) as its frames (B·T, C, H, W): a view where channels lie last."""

from __future__ import annotations

from torch import Tensor


def to_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B·T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def from_frames(y: Tensor, batch: int, time: int) -> Tensor:
    """(B·T, C, H, W) -> (B, C, T, H, W)."""
    return y.unflatten(0, (batch, time)).transpose(1, 2)
