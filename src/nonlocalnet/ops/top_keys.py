"""The operation over the keys with the largest weights alone, without the N x M matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from nonlocalnet.ops import reference
from nonlocalnet.ops.heads import split_operands
from nonlocalnet.ops.plan import BUDGET
from nonlocalnet.ops.precision import common_dtype, wide, without_autocast
from nonlocalnet.options import Pairwise


@torch.no_grad()
def top_keys(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    pairwise: Pairwise = "gaussian",
    *,
    top: int | None = None,
    scale: float | None = None,
    w_f: Tensor | None = None,
    heads: int = 1,
    places: tuple[Tensor, Tensor] | None = None,
    radius: float | Tensor | None = None,
    memory_budget: int | None = None,
) -> Tensor:
    """Compute y_i = Σ_j a_ij g_j / Σ_j a_ij over the `top` keys j with the largest weights a_ij.

    a_ij = f(x_i, x_j) / C(x) are the rows of `nl.affinity`, the mean over heads, and 0 where they
    are negative (dot product). Rows are computed some queries at a time.

    Args:
        theta: (N, d), the queries.
        phi: (M, d), the keys.
        g: (M, c), the values.
        pairwise, scale, w_f, heads: as in `nl.non_local`.
        top: number of keys of each query; None takes all.
        places: the points (N, 2) of the queries and (M, 2) of the keys.
        radius: a query sees only keys whose point is at most so far from its own; a tensor (M,) has
            a radius of each key.
        memory_budget: bytes that a chunk of rows may take; None is 128 MiB.

    Returns:
        (N, c), float32 or float64; 0 for a query whose weights are all 0, or that sees no key.

    >>> import torch
    >>> x = torch.eye(3)
    >>> top_keys(x, x, torch.tensor([[1.0], [2.0], [3.0]]), top=1).flatten()
    tensor([1., 2., 3.])
    """
    dtype = wide(common_dtype(theta, phi))
    keys = len(phi)
    k = keys if top is None else min(top, keys)
    # scores, weights and a copy of every head, distances, the largest, and the values taken
    row = dtype.itemsize * (keys * (3 * heads + 5) + k * (g.shape[1] + 3))
    chunk = max(1, (memory_budget or BUDGET) // row)
    y = torch.zeros(len(theta), g.shape[1], dtype=dtype, device=g.device)
    g = g.to(dtype)
    with without_autocast(theta.device.type):
        for start in range(0, len(theta), chunk):
            part = slice(start, start + chunk)
            a = _rows(
                theta[part].to(dtype),
                phi.to(dtype),
                pairwise,
                None if w_f is None else w_f.to(dtype),
                heads,
                scale,
                None if places is None else _near(places[0][part], places[1], radius),
            )
            weights, index = a.clamp(min=0).topk(k, dim=1)
            weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
            y[part] = torch.einsum("qk,qkc->qc", weights, g[index])
    return y


def _rows(
    theta: Tensor,
    phi: Tensor,
    pairwise: Pairwise,
    w_f: Tensor | None,
    heads: int,
    scale: float | None,
    seen: Tensor | None,
) -> Tensor:
    """Compute rows of weights, the mean over heads: (n, M)."""
    theta, phi, _, w_f = split_operands(theta.unsqueeze(0), phi.unsqueeze(0), None, w_f, heads)
    seen = None if seen is None else seen.unsqueeze(0)
    return reference.affinity(theta, phi, pairwise, scale=scale, w_f=w_f, seen=seen).mean(0)


def _near(queries: Tensor, keys: Tensor, radius: float | Tensor | None) -> Tensor | None:
    """Tell which keys lie within the radius of each query: (n, 2), (M, 2) -> (n, M)."""
    if radius is None:
        return None
    apart = (queries.unsqueeze(1) - keys.unsqueeze(0)).square().sum(2)
    return apart <= radius**2
