"""Draw attention as brightness on the frames of a clip."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nonlocalnet.inspection.attention import Attention
from nonlocalnet.inspection.geometry import Axis, lift

# distinguishable with color blindness, and in grayscale
POSITIVE, NEGATIVE = (255, 176, 0), (100, 143, 255)
DIM, TINT = 0.42, 0.38  # brightness of the darkest places, amount of color in the brightest

Floats = NDArray[np.float32]


def lifted(attention: Attention, frames: Tensor) -> list[tuple[Axis, Axis, Axis]]:
    """Place the grids of queries and keys on the frames (T, 3, H, W) that show the clip."""
    count, _, height, width = frames.shape
    picture = count, height, width
    return [lift(grid, attention.size, picture) for grid in (attention.queries, attention.keys)]


def query_of(attention: Attention) -> tuple[int, int, int]:
    """Return the query's index along t, y and x of the frames: see `geometry.lift`."""
    t, y, x = (0,) * (3 - len(attention.query)) + attention.query
    return t, y, x


def heat_of(attention: Attention, frames: Tensor) -> Floats:
    """Return for every pixel the brightness of its key: see `Attention.light`.

    Returns:
        (T, H, W) from -1 to 1; 0 for keys with at most an even share and for pixels without a key,
        since pooling drops what does not fill a cell.
    """
    _, keys = lifted(attention, frames)
    light = attention.light.numpy().reshape([axis.count for axis in keys])
    size = frames.shape[0], *frames.shape[2:]
    t, y, x = (np.array(axis.covering(n)) for axis, n in zip(keys, size, strict=True))
    heat = light[t[:, None, None], y[None, :, None], x[None, None, :]]
    seen = (t >= 0)[:, None, None] & (y >= 0)[None, :, None] & (x >= 0)[None, None, :]
    return np.where(seen, heat, 0).astype(np.float32)


def paint(frame: Tensor, heat: Floats) -> NDArray[np.uint8]:
    """Draw brightness on a frame: uint8 (3, H, W), (H, W) -> uint8 (H, W, 3).

    Places with at most an even share are dark; amber is positive, blue negative.
    """
    picture = frame.permute(1, 2, 0).numpy().astype(np.float32)
    strength = np.abs(heat)[..., None]
    color = np.where(heat[..., None] >= 0, np.array(POSITIVE), np.array(NEGATIVE))
    lit = picture * (DIM + (1 - DIM) * strength)
    return (lit + (color - lit) * TINT * strength).round().astype(np.uint8)
