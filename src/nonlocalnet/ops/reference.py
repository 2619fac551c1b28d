"""The definition as the paper writes it: slow, clear, any dtype. Every other implementation is
tested against it.

y_i = 1/C(x) · Σ_j f(x_i, x_j) g(x_j)        (paper, equation 1)
"""

from __future__ import annotations

from torch import Tensor

from nonlocalnet.ops.pairwise import scores, weights
from nonlocalnet.options import Pairwise


def affinity(
    theta: Tensor,
    phi: Tensor,
    pairwise: Pairwise,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    w_f: Tensor | None = None,
) -> Tensor:
    """Compute the weights f(x_i, x_j) / C(x): (B, N, d), (B, M, d) -> (B, N, M)."""
    if mask is not None:  # values in the padding, even NaN, must not reach any gradient
        phi = phi.masked_fill(~mask.unsqueeze(2), 0)
    return weights(scores(theta, phi, pairwise, scale=scale, w_f=w_f), pairwise, mask)


def non_local(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    pairwise: Pairwise,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    w_f: Tensor | None = None,
) -> Tensor:
    """Compute y = f/C · g with the whole N x M matrix -> (B, N, c)."""
    if mask is not None:
        g = g.masked_fill(~mask.unsqueeze(2), 0)
    return affinity(theta, phi, pairwise, scale=scale, mask=mask, w_f=w_f) @ g
