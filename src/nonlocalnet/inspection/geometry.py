"""Where the positions of a feature map lie in the network's input."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
)


@dataclass(frozen=True)
class Axis:
    """The positions along one axis of a map: the center of position i is start + i · stride.

    The unit is a pixel (frame, step) of the input, and pixel p covers [p, p + 1]: the input itself
    is Axis(0.5, 1, size).

    >>> stem = Axis(0.5, 1, 224).through(kernel=7, stride=2, padding=3, count=112)
    >>> stem
    Axis(start=0.5, stride=2, count=112)
    >>> stem.cell(1), stem.nearest(3.6)
    ((1.5, 3.5), 2)
    """

    start: float
    stride: float
    count: int

    def through(
        self,
        kernel: int,
        stride: int = 1,
        padding: float = 0,
        dilation: int = 1,
        *,
        count: int,
    ) -> Axis:
        """Return the axis after a convolution or pooling: the centers of its windows."""
        offset = dilation * (kernel - 1) / 2 - padding
        return Axis(self.start + self.stride * offset, self.stride * stride, count)

    def scaled(self, factor: float) -> Axis:
        """Return the axis in other pixels, `factor` of which make one of these."""
        return Axis(self.start * factor, self.stride * factor, self.count)

    def spread(self, count: int) -> Axis:
        """Return the axis of `count` positions spaced evenly over the same range."""
        stride = self.stride * self.count / count
        return Axis(self.start - self.stride / 2 + stride / 2, stride, count)

    def center(self, i: int) -> float:
        """Return the center of position i."""
        return self.start + i * self.stride

    def cell(self, i: int) -> tuple[float, float]:
        """Return the edges of the cell of position i, which is as wide as the stride."""
        return self.center(i) - self.stride / 2, self.center(i) + self.stride / 2

    def covering(self, size: int) -> list[int]:
        """Return, for each of `size` pixels, the position whose cell holds its center, or -1."""
        cells = [int((p + 0.5 - self.cell(0)[0]) // self.stride) for p in range(size)]
        return [i if 0 <= i < self.count else -1 for i in cells]

    def nearest(self, x: float) -> int:
        """Return the position whose center is nearest to x; in a tie, the later one."""
        i = int((x - self.start) / self.stride + 0.5) if x > self.start else 0
        return min(i, self.count - 1)


Grid = tuple[Axis, ...]  # one axis each of T, (H, W) or (T, H, W)


def interpolation(axis: Axis, places: Tensor) -> Tensor:
    """Divide places among the two positions around each, linearly: (K,) -> (K, n).

    Its product with the values of the positions interpolates them at the places; outside, they are
    those of the first or the last position.

    >>> import torch
    >>> interpolation(Axis(start=4, stride=8, count=3), torch.tensor([4.0, 10.0, 99.0]))
    tensor([[1.0000, 0.0000, 0.0000],
            [0.2500, 0.7500, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    i = ((places - axis.start) / axis.stride).clamp(0, axis.count - 1)
    steps = torch.arange(axis.count, dtype=i.dtype, device=i.device)
    return (1 - (i.unsqueeze(1) - steps).abs()).clamp(min=0)


def input_grid(size: Sequence[int]) -> Grid:
    """Return the grid of the input's pixels."""
    return tuple(Axis(0.5, 1, n) for n in size)


def pooled(grid: Grid, factors: Sequence[int] | None, size: Sequence[int]) -> Grid:
    """Return the grid of `size` keys, each pooled from `factors` positions of a block's map."""
    if factors is None:
        return grid
    kernels = [min(k, axis.count) for k, axis in zip(factors, grid, strict=True)]
    return tuple(
        axis.through(k, k, count=n) for axis, k, n in zip(grid, kernels, size, strict=True)
    )


@contextlib.contextmanager
def traced(model: nn.Module, size: Sequence[int]) -> Generator[dict[tuple[int, ...], Grid]]:
    """Record the grid of each feature map of a forward pass, by the size of the map.

    The grid after a convolution or pooling module follows from the grid before it and the module's
    stride, padding, kernel and dilation. Maps of the same size are taken to have the same grid, as
    those of a residual branch and its shortcut have. A size with another origin (adaptive pooling,
    interpolation, patches cut by hand) is not recorded; `find` spaces its positions evenly.

    Args:
        model: any network of modules.
        size: length of the input's axes, without batch and channels.

    Yields:
        The grids, filled while the network runs.
    """
    grids: dict[tuple[int, ...], Grid] = {tuple(size): input_grid(size)}

    def add(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        axes = len(layer.kernel_size) if isinstance(layer.kernel_size, tuple) else None
        before = grids.get(tuple(inputs[0].shape[2:]))
        after = tuple(output.shape[2:])
        if before is None or after in grids or (axes is not None and axes != len(before)):
            return
        words = [_each(getattr(layer, name, 1), len(before)) for name in ("kernel_size", "stride")]
        dilations = _each(getattr(layer, "dilation", 1), len(before))
        paddings = 0 if layer.padding == "valid" else layer.padding  # "same" keeps the size
        grids[after] = tuple(
            axis.through(kernel, stride, padding, dilation, count=count)
            for axis, kernel, stride, padding, dilation, count in zip(
                before, *words, _each(paddings, len(before)), dilations, after, strict=True
            )
        )

    handles = [
        layer.register_forward_hook(add) for layer in model.modules() if isinstance(layer, LAYERS)
    ]
    try:
        yield grids
    finally:
        for handle in handles:
            handle.remove()


def find(grids: dict[tuple[int, ...], Grid], size: Sequence[int], whole: Sequence[int]) -> Grid:
    """Return the grid of a map; if it was not recorded, spaced evenly over the `whole` input."""
    known = grids.get(tuple(size))
    if known is not None:
        return known
    return tuple(axis.spread(n) for axis, n in zip(input_grid(whole), size, strict=True))


def lift(
    grid: Grid, size: Sequence[float], picture: tuple[int, float, float]
) -> tuple[Axis, Axis, Axis]:
    """Place the grid of a map on the frames that show a clip.

    An image is one frame, and so is a sequence, with time from left to right.

    Args:
        grid: the positions, in units of the clip.
        size: length of each axis of the clip.
        picture: (T, H, W) of the frames.

    Returns:
        The axes t, y and x, in frames and pixels of the picture.
    """
    frames, height, _ = picture
    whole = (Axis(frames / 2, frames, 1), Axis(height / 2, height, 1))
    scaled = [
        axis.scaled(shown / own)
        for axis, own, shown in zip(grid, size, picture[-len(grid) :], strict=True)
    ]
    t, y, x = [*whole[: 3 - len(grid)], *scaled]
    return t, y, x


def _each(value: int | Sequence[int], axes: int) -> Sequence[int]:
    return (value,) * axes if isinstance(value, int) else value
