"""How clips (B, C, T, H, W) lie in memory: channels last, and then as their frames, a view."""

from __future__ import annotations

from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    """Copy to the memory format channels_last_3d unless it is so; in words that vmap knows."""
    return x.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)


def to_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B·T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def from_frames(y: Tensor, batch: int, time: int) -> Tensor:
    """(B·T, C, H, W) -> (B, C, T, H, W)."""
    return y.unflatten(0, (batch, time)).transpose(1, 2)
