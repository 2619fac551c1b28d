"""The definition as the paper writes it: slow, clear, any dtype. Every other implementation is
tested against it.

y_i = 1/C(x) · Σ_j f(x_i, x_j) g(x_j)        (paper, equation 1)
"""

from __future__ import annotations

from torch import Tensor

from nonlocalnet.ops.causal import frame_by_frame
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
    seen: Tensor | None = None,
) -> Tensor:
    """Compute the weights f(x_i, x_j) / C(x): (B, N, d), (B, M, d) -> (B, N, M).

    A query sees the keys that are True in both mask (B, M) and seen (B, N, M).
    """
    if mask is not None:  # values in the padding, even NaN, must not reach any gradient
        phi = phi.masked_fill(~mask.unsqueeze(2), 0)
        mask = mask.unsqueeze(1)
        seen = mask if seen is None else mask & seen
    return weights(scores(theta, phi, pairwise, scale=scale, w_f=w_f), pairwise, seen)


def non_local(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    pairwise: Pairwise,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    w_f: Tensor | None = None,
    frames: int | None = None,
) -> Tensor:
    """Compute y = f/C · g with the whole N x M matrix -> (B, N, c).

    With `frames`, the queries of frame t see the keys of frames 0 to t, as if there were no others.
    """

    def of_all_keys(theta: Tensor, phi: Tensor, g: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            g = g.masked_fill(~mask.unsqueeze(2), 0)
        return affinity(theta, phi, pairwise, scale=scale, mask=mask, w_f=w_f) @ g

    return frame_by_frame(of_all_keys, theta, phi, g, mask, frames)
