"""The operation as families call it: on maps, with heads and frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from nonlocalnet.blocks.rows import from_rows, to_rows
from nonlocalnet.ops import Pairwise, non_local

Extent = Literal["spacetime", "space", "causal"]


class Attend(Protocol):
    """Compute y_i = Σ_j w(θ_i, φ_j) g_j on maps: see `attend`."""

    def __call__(
        self,
        theta: Tensor,
        phi: Tensor,
        g: Tensor,
        pairwise: Pairwise = "embedded_gaussian",
        *,
        scale: float | None = None,
        w_f: Tensor | None = None,
        heads: int = 1,
        extent: Extent = "spacetime",
    ) -> Tensor: ...


@dataclass(frozen=True)
class Operands:
    """The arguments of one `nl.non_local`, made of maps.

    Attributes:
        theta (B', N', d), phi (B', M', d), g (B', M', c): with heads, and frames of extent
            "space", in the batch.
        options: pairwise, scale and w_f.
        size, key_size: of the maps of queries and keys.
        heads, extent: what B' consists of, beside the batch.
    """

    theta: Tensor
    phi: Tensor
    g: Tensor
    options: dict[str, Any]
    size: tuple[int, ...]
    key_size: tuple[int, ...]
    heads: int
    extent: Extent

    @classmethod
    def of(
        cls,
        theta: Tensor,
        phi: Tensor,
        g: Tensor,
        pairwise: Pairwise = "embedded_gaussian",
        *,
        scale: float | None = None,
        w_f: Tensor | None = None,
        heads: int = 1,
        extent: Extent = "spacetime",
    ) -> Operands:
        """Gather the rows of maps; arguments as `attend`."""
        rows = (_split(to_rows(t, extent, None), heads) for t in (theta, phi, g))
        options = {"pairwise": pairwise, "scale": scale, "w_f": w_f}
        return cls(*rows, options, tuple(theta.shape[2:]), tuple(phi.shape[2:]), heads, extent)

    @property
    def pairs(self) -> int:
        """Number of pairs of queries and keys."""
        return self.theta.shape[0] * self.theta.shape[1] * self.phi.shape[1]

    def compute(self) -> Tensor:
        """Compute the operation -> (B', N', c)."""
        if self.extent != "causal":
            return non_local(self.theta, self.phi, self.g, **self.options)
        frame = self.theta.shape[1] // self.size[0]
        parts = [
            non_local(theta, self.phi[:, :seen], self.g[:, :seen], **self.options)
            for theta, seen in zip(
                self.theta.split(frame, dim=1),
                range(frame, self.theta.shape[1] + 1, frame),
                strict=True,
            )
        ]
        return torch.cat(parts, dim=1)

    def map(self, y: Tensor, batch: int) -> Tensor:
        """Arrange rows (B', N', c) as a map (B, heads · c, ...)."""
        if self.heads > 1:
            y = y.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)
        return from_rows(y, torch.Size((batch, y.shape[2], *self.size)), self.extent, None)


def _split(rows: Tensor, heads: int) -> Tensor:
    """Put heads into the batch: (B, N, heads · d) -> (B · heads, N, d)."""
    if heads == 1:
        return rows
    return rows.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)


def attend(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    pairwise: Pairwise = "embedded_gaussian",
    *,
    scale: float | None = None,
    w_f: Tensor | None = None,
    heads: int = 1,
    extent: Extent = "spacetime",
) -> Tensor:
    """Compute the non-local operation on maps.

    Args:
        theta: (B, heads · d, ...), the queries; the channels of a head are neighbors.
        phi: (B, heads · d, ...), the keys, on a map of any size.
        g: (B, heads · c, ...), the values, on the map of phi.
        pairwise, scale, w_f: as in `nl.non_local`, for each head.
        heads: number of heads.
        extent: "spacetime": a query sees all keys; "space": those of its frame (axis 2);
            "causal": those of its frame and of earlier ones.

    Returns:
        (B, heads · c, ...) on the map of theta, contiguous if theta is.
    """
    operands = Operands.of(
        theta, phi, g, pairwise, scale=scale, w_f=w_f, heads=heads, extent=extent
    )
    y = operands.map(operands.compute(), theta.shape[0])
    return y.contiguous() if theta.is_contiguous() else y


@dataclass
class Recorder:
    """An `attend` that keeps its operands."""

    calls: list[Operands] = field(default_factory=list)

    def __call__(self, theta: Tensor, phi: Tensor, g: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.calls.append(Operands.of(theta, phi, g, *args, **kwargs))
        return attend(theta, phi, g, *args, **kwargs)


def average(theta: Tensor, phi: Tensor, g: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stand for `attend` where the weights shall not matter: the mean of all values."""
    mean = g.flatten(2).mean(2)
    return mean.reshape(*mean.shape, *(1,) * (theta.ndim - 2)).expand(-1, -1, *theta.shape[2:])
