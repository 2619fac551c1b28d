"""`nl.propagate`: carry a mask or points of a video's first frame through its other frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnet.clips import MEAN, STD
from nonlocalnet.data.sampling import short_side_size
from nonlocalnet.data.transforms import normalize
from nonlocalnet.inspection.geometry import Axis, interpolation
from nonlocalnet.inspection.stills import Still, embed_frames, find_layer
from nonlocalnet.ops.top_keys import top_keys

SHORT_SIDE = 256  # at most, of frames that are resized; measured, too
LOST = 0.1  # confidence; measured: benchmarks/correspondence.py


@dataclass(frozen=True)
class Propagation:
    """What was carried through a video.

    Attributes:
        maps: (T, K, h, w) float32 on the positions of the layer: of a mask the share of each label,
            label 0 first; of points a map each. Frame 0 has what was given.
        size: (H, W) of the frames that were given.
        axes: y and x of the positions, in pixels of these frames.
        points: (T, K, 2) x, y in these pixels; None for a mask.
        confidence: (T, K) of points, from 0 to 1; None for a mask.
        layer: module path of what was compared.
    """

    maps: Tensor
    size: tuple[int, int]
    axes: tuple[Axis, Axis]
    points: Tensor | None
    confidence: Tensor | None
    layer: str

    @property
    def lost(self) -> Tensor:
        """(T, K) booleans: where the confidence of a point is below 0.1."""
        if self.confidence is None:
            raise ValueError("a mask is not lost: look at its shares, `maps`")
        return self.confidence < LOST

    def probabilities(self, frame: int) -> Tensor:
        """Interpolate the maps of a frame linearly at its pixels: (K, H, W)."""
        y, x = (
            interpolation(axis, torch.arange(n) + 0.5)
            for axis, n in zip(self.axes, self.size, strict=True)
        )
        return y @ self.maps[frame] @ x.T

    def mask(self, frame: int) -> Tensor:
        """Return the label of each pixel of a frame, the most probable one: (H, W) int64."""
        return self.probabilities(frame).argmax(dim=0)


def propagate(
    network: nn.Module,
    frames: Any,
    mask: Any = None,
    *,
    points: Sequence[Sequence[float]] | Tensor | None = None,
    layer: str | None = None,
    scale: float | Literal["auto"] | None = "auto",
    top: int | None = 10,
    references: int = 4,
    radius: float | None = None,
    short_side: int | Literal["auto"] | None = "auto",
    memory_budget: int | None = None,
) -> Propagation:
    """Carry a mask or points of the first frame through the other frames, by attention alone.

    A position i of a frame takes the labels of the positions j that it attends to in the first
    frame and in the last `references` frames before it: y_i = Σ_j a_ij y_j / Σ_j a_ij over the
    `top` largest weights a_ij = f(x_i, x_j) / C(x). Nothing is trained, and no motion is assumed.
    Memory is linear in the number of positions.

    Args:
        network: any network of images or videos. One from `nl.load` knows its input; pass float
            frames, normalized, to others. It sees one frame at a time.
        frames: uint8 (T, H, W, 3), or (3, T, H, W), uint8 or float as the network takes it; arrays
            or tensors.
        mask: of the first frame, (H, W) integer labels from 0, or (K, H, W) shares of each label.
        points: instead of a mask, x, y of each point in pixels of the first frame, (K, 2).
        layer: module path of a non-local block, whose θ and φ are compared, or of any other module,
            whose outputs are compared as the plain Gaussian block does. None is the last block.
        scale: factor of the exponent; "auto" is the block's. A larger one makes attention sharper.
        top: number of keys that a position takes labels from; None is all.
        references: number of frames before the current one that are attended to, with the first.
        radius: the farthest that something moves from frame to frame, in pixels of the frames;
            None is no limit. The first frame, which may be long ago, is always seen whole.
        short_side: uint8 frames are resized to it; "auto" is that of the network's weights, but at
            most 256; None keeps the size.
        memory_budget: bytes that a chunk of rows may take; None is 128 MiB.

    Returns:
        A `Propagation`. The confidence of a point is the share of attention with which the place
        that was found attends back, in the first frame, to where the point was.

    Raises:
        ValueError: neither or both of mask and points are given, shapes or labels do not fit, a
            point lies outside, or there is no such layer.

    Source: Vondrick et al., Tracking Emerges by Colorizing Videos, ECCV 2018; Jabri et al.,
    Space-Time Correspondence as a Contrastive Random Walk, NeurIPS 2020 (top keys, first and last
    frames).

    >>> import torch, nonlocalnet as nl
    >>> video = torch.eye(12).view(12, 1, 3, 4).repeat(1, 5, 1, 1)  # each pixel shows itself only
    >>> network = torch.nn.Conv2d(12, 12, 1)
    >>> _ = torch.nn.init.dirac_(network.weight), torch.nn.init.zeros_(network.bias)
    >>> wrapped = torch.nn.Sequential(network)
    >>> found = nl.propagate(wrapped, video, points=[(3, 1)], layer="0", scale=None, top=1)
    >>> found.points[:, 0].tolist()
    [[3.0, 1.0], [3.0, 1.0], [3.0, 1.0], [3.0, 1.0], [3.0, 1.0]]
    """
    for name, value, least in (("top", top, 1), ("references", references, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")
    if radius is not None and radius <= 0:
        raise ValueError(f"radius must be above 0, in pixels, or None; got {radius}")
    layer = find_layer(network, layer)
    given = _frames(frames)
    size = given.shape[2], given.shape[3]
    if (mask is None) == (points is None):
        raise ValueError(
            "give either mask or points; got " + ("neither" if mask is None else "both")
        )
    labels = None if mask is None else _mask(mask, size)
    places = None if points is None else _points(points, size)
    side = _short_side(network) if short_side == "auto" else short_side
    stills = embed_frames(network, (_input(network, f, side) for f in given.unbind(1)), layer)
    state = Carrier(size, labels, places, scale, top, references, radius, memory_budget)
    for still in stills:
        state.add(still)
    return state.result(layer)


class Carrier:
    """Labels of the first frame and of the last ones, and what was found so far."""

    def __init__(
        self,
        size: tuple[int, int],
        mask: Tensor | None,
        points: Tensor | None,
        scale: float | Literal["auto"] | None,
        top: int | None,
        references: int,
        radius: float | None,
        memory_budget: int | None,
    ) -> None:
        self.size, self.mask, self.start = size, mask, points
        self.scale, self.radius = scale, None if radius is None else float(radius)
        self.options: dict[str, Any] = {"top": top, "memory_budget": memory_budget}
        self.first: tuple[Still, Tensor] | None = None
        self.last: deque[tuple[Still, Tensor]] = deque(maxlen=references)
        self.maps: list[Tensor] = []
        self.points: list[Tensor] = []
        self.confidence: list[Tensor] = []

    def add(self, still: Still) -> None:
        """Take the next frame."""
        still = self._placed(still)
        if self.first is None:
            labels = self._given(still)
            self.first = still, labels
            if self.start is not None:
                self.points.append(self.start)
                self.confidence.append(torch.ones(len(self.start)))
        else:
            seen = [self.first, *(pair for pair in self.last if pair[0] is not self.first[0])]
            labels = self._carry(still, seen)
            if self.start is not None:
                self._find(still, labels)
        self.last.append((still, labels))
        self.maps.append(labels.T.unflatten(1, still.size).cpu())
        self.axes = still.axes

    def result(self, layer: str) -> Propagation:
        """Return all that was found."""
        points = torch.stack(self.points) if self.points else None
        sure = torch.stack(self.confidence) if self.confidence else None
        return Propagation(torch.stack(self.maps), self.size, self.axes, points, sure, layer)

    def _placed(self, still: Still) -> Still:
        """Place a still in pixels of the frames that were given, with the scale that was asked."""
        options = still.options
        if self.scale != "auto":
            options = {**options, "scale": self.scale}
        factors = (n / whole for n, whole in zip(self.size, still.whole, strict=True))
        y, x = (axis.scaled(f) for axis, f in zip(still.axes, factors, strict=True))
        return Still(still.theta, still.phi, options, y, x, still.whole)

    def _given(self, still: Still) -> Tensor:
        """Return the labels of the first frame at its positions, (N, K)."""
        if self.mask is not None:
            y, x = (_cells(a, n) for a, n in zip(still.axes, self.size, strict=True))
            labels = y @ self.mask @ x.T
        else:
            assert self.start is not None
            places = self.start.flip(1) + 0.5  # y, x of pixels' centers
            y, x = (interpolation(a, places[:, k]) for k, a in enumerate(still.axes))
            labels = y.unsqueeze(2) * x.unsqueeze(1)
        return labels.flatten(1).T.contiguous().to(still.theta.device)

    def _carry(self, still: Still, seen: Sequence[tuple[Still, Tensor]]) -> Tensor:
        """Take labels from frames seen before, the first of all without a limit of distance."""
        places = radius = None
        if self.radius is not None:
            device = still.theta.device
            centers = [other.centers() for other, _ in seen]
            places = still.centers().to(device), torch.cat(centers).to(device)
            radius = torch.full((len(places[1]),), self.radius, device=device)
            radius[: len(centers[0])] = torch.inf
        return top_keys(
            still.theta,
            torch.cat([other.phi for other, _ in seen]),
            torch.cat([labels for _, labels in seen]),
            places=places,
            radius=radius,
            **self.options,
            **still.options,
        ).float()

    def _find(self, still: Still, labels: Tensor) -> None:
        """Read the point of each map, and how much it attends back to where it was given.

        A point that no position took a label from stays where it was, with confidence 0.
        """
        assert self.first is not None
        maps = labels.T.unflatten(1, still.size).cpu()
        largest, best = maps.flatten(1).max(1)
        places = torch.stack([_peak(m, still.axes) for m in maps])
        found = largest > 0
        self.points.append(torch.where(found.unsqueeze(1), places, self.points[-1]))
        start, given = self.first
        back = top_keys(
            still.theta[best.to(still.theta.device)],
            start.phi,
            _around(given, start.size),
            memory_budget=self.options["memory_budget"],
            **still.options,
        )
        self.confidence.append(back.diagonal().float().cpu() * found)


def _frames(frames: Any) -> Tensor:
    """Check frames and return them as (C, T, H, W)."""
    given = torch.as_tensor(frames)
    if given.ndim == 4 and given.dtype == torch.uint8 and given.shape[3] == 3:
        given = given.permute(3, 0, 1, 2)
    elif given.ndim != 4 or not (given.is_floating_point() or given.dtype == torch.uint8):
        raise ValueError(
            "frames must be uint8 (T, H, W, 3), or (C, T, H, W), uint8 or float; got "
            f"{given.dtype} {tuple(given.shape)}"
        )
    if given.dtype == torch.uint8 and given.shape[0] != 3:
        raise ValueError(f"uint8 frames have 3 colors; got {tuple(given.shape)}")
    if 0 in given.shape:
        raise ValueError(f"frames must not be empty; got {tuple(given.shape)}")
    return given


def _short_side(network: nn.Module) -> int | None:
    """Return the short side that a network's weights name, at most 256; None if they do not."""
    info = getattr(network, "info", None)
    return None if info is None else min(info.short_side, SHORT_SIDE)


def _input(network: nn.Module, frame: Tensor, short_side: int | None) -> Tensor:
    """Prepare a frame (C, H, W): uint8 is resized and normalized as the network's weights say."""
    if frame.dtype != torch.uint8:
        return frame
    info = getattr(network, "info", None)
    mean, std = (MEAN, STD) if info is None else (info.mean, info.std)
    x = normalize(frame.unsqueeze(1), mean, std).squeeze(1)
    if short_side is None:
        return x
    size = short_side_size(*frame.shape[1:], short_side)
    scaled = F.interpolate(x.unsqueeze(0), size, mode="bilinear", antialias=True)
    return scaled.squeeze(0)


def _mask(mask: Any, size: tuple[int, int]) -> Tensor:
    """Check a mask and return the shares of its labels, (K, H, W) float32."""
    given = torch.as_tensor(mask)
    if given.shape[-2:] != size or given.ndim not in (2, 3):
        raise ValueError(
            f"mask must be labels (H, W) or shares (K, H, W) of the first frame, {size}; got "
            f"{tuple(given.shape)}"
        )
    if given.ndim == 3:
        if not given.is_floating_point() or not bool((given >= 0).all()):
            raise ValueError(f"shares of labels must be floats of at least 0; got {given.dtype}")
        return given.float()
    if given.is_floating_point() or int(given.min()) < 0:
        raise ValueError(f"labels must be integers of at least 0; got {given.dtype}")
    return F.one_hot(given.long()).permute(2, 0, 1).float()


def _points(points: Any, size: tuple[int, int]) -> Tensor:
    given = torch.as_tensor(points, dtype=torch.float32)
    if given.ndim != 2 or given.shape[1] != 2 or not len(given):
        raise ValueError(f"points must be x, y of each point, (K, 2); got {tuple(given.shape)}")
    height, width = size
    inside = (given >= 0).all() and (given[:, 0] < width).all() and (given[:, 1] < height).all()
    if not bool(inside):
        raise ValueError(f"points must lie in the frame, {width} x {height}; got {given.tolist()}")
    return given


def _cells(axis: Axis, pixels: int) -> Tensor:
    """Return the matrix (n, pixels) that takes the mean over the cell of each position.

    A cell is as wide as the stride; of cells over the edge, the part inside counts.
    """
    edges = torch.tensor([axis.cell(i) for i in range(axis.count)])
    p = torch.arange(pixels)
    inside = torch.minimum(edges[:, 1:], p + 1.0) - torch.maximum(edges[:, :1], p.float())
    inside = inside.clamp(min=0)
    return inside / inside.sum(1, keepdim=True).clamp(min=1e-12)


def _peak(values: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
    """Return x, y of the largest value of a map (h, w): the mean over it and its neighbors."""
    row, column = divmod(int(values.argmax()), values.shape[1])
    y, x = (
        torch.tensor([axis.center(i) for i in range(axis.count)], dtype=torch.float64)
        for axis in axes
    )
    rows, columns = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
    near = values[rows, columns].double()
    near = near / near.sum().clamp(min=torch.finfo(near.dtype).tiny)
    place = torch.stack([(near.sum(0) * x[columns]).sum(), (near.sum(1) * y[rows]).sum()])
    return (place - 0.5).float()


def _around(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Mark the positions with a label and their neighbors: (N, K) -> (N, K) of 0 and 1."""
    maps = (labels > 0).float().T.unflatten(1, size)
    return F.max_pool2d(maps, 3, stride=1, padding=1).flatten(1).T
