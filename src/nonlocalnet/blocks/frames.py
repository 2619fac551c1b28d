"""Memory layouts of clips (B, C, T, H, W): channels last, and as a batch of frames."""

from __future__ import annotations

from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    """Copy to the memory format channels_last_3d if needed, by operators that vmap supports."""
    return x.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)


def to_frames(x: Tensor) -> Tensor:
    """Reshape (B, C, T, H, W) to (B·T, C, H, W), a view if channels are last."""
    return x.transpose(1, 2).flatten(0, 1)


def from_frames(y: Tensor, batch: int, time: int) -> Tensor:
    """Reshape (B·T, C, H, W) to (B, C, T, H, W), a view."""
    return y.unflatten(0, (batch, time)).transpose(1, 2)
