"""Attention as light on the frames of a clip, pixel by pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nonlocalnet.inspection.analysis import Attention
from nonlocalnet.inspection.geometry import Axis, lift

# told apart by the color-blind, and from each other in gray
POSITIVE, NEGATIVE = (255, 176, 0), (100, 143, 255)
DIM, TINT = 0.42, 0.38  # brightness where there is no light, color where there is most

Floats = NDArray[np.float32]


def lifted(attention: Attention, frames: Tensor) -> list[tuple[Axis, Axis, Axis]]:
    """Put the grids of positions and keys on the frames (T, 3, H, W) that show the clip."""
    count, _, height, width = frames.shape
    picture = count, height, width
    return [lift(grid, attention.size, picture) for grid in (attention.queries, attention.keys)]


def heat_of(attention: Attention, frames: Tensor) -> Floats:
    """Give every pixel the light of the key that it belongs to: see `Attention.light`.

    -> (T, H, W) from -1 to 1; 0 where a key has no more than an even share, and where no key lies,
    as pooling leaves out what does not fill a cell.
    """
    _, keys = lifted(attention, frames)
    light = attention.light.numpy().reshape([axis.count for axis in keys])
    size = frames.shape[0], *frames.shape[2:]
    t, y, x = (np.array(axis.covering(n)) for axis, n in zip(keys, size, strict=True))
    heat = light[t[:, None, None], y[None, :, None], x[None, None, :]]
    seen = (t >= 0)[:, None, None] & (y >= 0)[None, :, None] & (x >= 0)[None, None, :]
    return np.where(seen, heat, 0).astype(np.float32)


def paint(frame: Tensor, heat: Floats) -> NDArray[np.uint8]:
    """Light up a frame where attention is: uint8 (3, H, W), (H, W) -> uint8 (H, W, 3).

    The frame is dark where a place gets no more than others; amber is positive, blue negative.
    """
    picture = frame.permute(1, 2, 0).numpy().astype(np.float32)
    strength = np.abs(heat)[..., None]
    color = np.where(heat[..., None] >= 0, np.array(POSITIVE), np.array(NEGATIVE))
    lit = picture * (DIM + (1 - DIM) * strength)
    return (lit + (color - lit) * TINT * strength).round().astype(np.uint8)
