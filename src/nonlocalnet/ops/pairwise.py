"""The four pairwise functions f of the paper (section 3.2) and their normalizers C.

A pairwise function is written in two steps, as every fast path needs them apart: `scores`, one
number s_ij per pair, and `weights`, what multiplies g(x_j): f(x_i, x_j) / C(x).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Pairwise = Literal["gaussian", "embedded_gaussian", "dot_product", "concatenation"]
PAIRWISE: tuple[str, ...] = get_args(Pairwise)
SOFTMAX_FORMS = ("gaussian", "embedded_gaussian")


def scores(
    theta: Tensor,
    phi: Tensor,
    pairwise: Pairwise,
    *,
    scale: float | None = None,
    w_f: Tensor | None = None,
) -> Tensor:
    """Score every pair: what f is a function of.

    s_ij = scale · θ_iᵀφ_j (softmax forms), θ_iᵀφ_j (dot product), w_fᵀ[θ_i, φ_j] (concatenation).

    theta (B, N, d), phi (B, M, d), w_f (2d,) -> (B, N, M). The concatenation is never built:
    w_fᵀ[θ_i, φ_j] is a sum of one number of i and one of j.
    """
    if pairwise == "concatenation":
        assert w_f is not None
        w_theta, w_phi = w_f.chunk(2)
        return (theta @ w_theta).unsqueeze(2) + (phi @ w_phi).unsqueeze(1)
    s = theta @ phi.transpose(1, 2)
    return s if scale is None else s * scale


def weights(s: Tensor, pairwise: Pairwise, mask: Tensor | None = None) -> Tensor:
    """Turn scores into normalized weights f(x_i, x_j) / C(x).

    Softmax forms: exp(s_ij) / Σ_j exp(s_ij). Dot product: s_ij / M. Concatenation:
    relu(s_ij) / M. M counts the key positions that the mask keeps.

    s (B, N, M), mask (B, M) booleans, True = a real position -> (B, N, M). A sample whose keys
    are all masked has weights zero.
    """
    if pairwise in SOFTMAX_FORMS:
        if mask is None:
            return s.softmax(dim=2)
        padding = ~mask.unsqueeze(1)
        # the lowest finite number, not -inf: a row of -inf alone would be NaN, also in backward
        s = s.masked_fill(padding, torch.finfo(s.dtype).min)
        return s.softmax(dim=2).masked_fill(padding, 0)
    f = s.relu() if pairwise == "concatenation" else s
    if mask is None:
        return f / s.shape[2]
    count = mask.sum(dim=1).clamp(min=1).to(s.dtype)
    return f.masked_fill(~mask.unsqueeze(1), 0) / count[:, None, None]
