"""The operation as families call it: on maps, with heads and frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from nonlocalnet.blocks.rows import from_rows, to_rows
from nonlocalnet.ops import Pairwise, non_local
from nonlocalnet.options import Extent


class Attend(Protocol):
    """Compute the operation on maps: see `attend`."""

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
        theta (B', N', d), phi (B', M', d), g (B', M', c): frames are in the batch for "space".
        options: the other arguments of `nl.non_local`.
        size, key_size: of the maps of queries and keys.
        extent: as in `attend`.
    """

    theta: Tensor
    phi: Tensor
    g: Tensor
    options: dict[str, Any]
    size: tuple[int, ...]
    key_size: tuple[int, ...]
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
        rows = (to_rows(t, extent, None) for t in (theta, phi, g))
        options = {
            "pairwise": pairwise,
            "scale": scale,
            "w_f": w_f,
            "heads": heads,
            "causal_frames": theta.shape[2] if extent == "causal" else None,
        }
        return cls(*rows, options, tuple(theta.shape[2:]), tuple(phi.shape[2:]), extent)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.theta.shape[0] // (self.size[0] if self.extent == "space" else 1)

    @property
    def pairs(self) -> int:
        """Number of pairs of queries and keys, in all samples and heads."""
        queries = self.theta.shape[0] * self.theta.shape[1]
        return self.options["heads"] * queries * self.phi.shape[1]


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
        theta: (B, d, ...), the queries; the channels of a head are neighbors.
        phi: (B, d, ...), the keys, on a map of any size.
        g: (B, c, ...), the values, on the map of phi.
        pairwise, scale, w_f, heads: as in `nl.non_local`.
        extent: "spacetime": a query sees all keys; "space": those of its frame (axis 2);
            "causal": those of its frame and of earlier ones.

    Returns:
        (B, c, ...) on the map of theta, contiguous if theta is.
    """
    operands = Operands.of(
        theta, phi, g, pairwise, scale=scale, w_f=w_f, heads=heads, extent=extent
    )
    y = non_local(operands.theta, operands.phi, operands.g, **operands.options)
    shape = torch.Size((theta.shape[0], g.shape[1], *theta.shape[2:]))
    y = from_rows(y, shape, extent, None)
    return y.contiguous() if theta.is_contiguous() else y


def average(theta: Tensor, phi: Tensor, g: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stand for `attend` where the weights shall not matter: the mean of all values."""
    mean = g.flatten(2).mean(2)
    return mean.reshape(*mean.shape, *(1,) * (theta.ndim - 2)).expand(-1, -1, *theta.shape[2:])


class Recorder:
    """An `attend` that keeps its operands."""

    def __init__(self) -> None:
        self.calls: list[Operands] = []

    def __call__(self, theta: Tensor, phi: Tensor, g: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.calls.append(Operands.of(theta, phi, g, *args, **kwargs))
        return attend(theta, phi, g, *args, **kwargs)


def rows_as_map(rows: Tensor, size: Sequence[int]) -> Tensor:
    """View rows (B, N, c) as a map (B, c, ...) of N positions."""
    return rows.mT.unflatten(2, tuple(size))
