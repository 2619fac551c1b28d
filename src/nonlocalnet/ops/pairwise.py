"""The four pairwise functions f of the paper (section 3.2) and their normalizers C.

A pairwise function is computed in two steps, which fast implementations need separately: `scores`
gives one number s_ij per pair, and `weights` turns it into f(x_i, x_j) / C(x).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nonlocalnet.options import Pairwise


@dataclass(frozen=True)
class PairwiseFunction:
    """A pairwise function: how its scores, its weights and the block's parameters are made.

    Attributes:
        embedded: θ and φ are projections of x; otherwise they are x itself.
        concatenated: s_ij = w_fᵀ[θ_i, φ_j], with a weight w_f (2d,); otherwise s_ij = θ_iᵀφ_j.
        softmax: f = exp(scale · s_ij) and C = Σ_j f; otherwise C = M.
        relu: f = relu(s_ij).
    """

    embedded: bool = True
    concatenated: bool = False
    softmax: bool = False
    relu: bool = False


FUNCTIONS: dict[str, PairwiseFunction] = {
    "gaussian": PairwiseFunction(embedded=False, softmax=True),
    "embedded_gaussian": PairwiseFunction(softmax=True),
    "dot_product": PairwiseFunction(),
    "concatenation": PairwiseFunction(concatenated=True, relu=True),
}
PAIRWISE = tuple(FUNCTIONS)
SOFTMAX_FORMS = tuple(name for name, function in FUNCTIONS.items() if function.softmax)


def scores(
    theta: Tensor,
    phi: Tensor,
    pairwise: Pairwise,
    *,
    scale: float | None = None,
    w_f: Tensor | None = None,
) -> Tensor:
    """Compute the scores s_ij, of which f is a function.

    s_ij = scale · θ_iᵀφ_j (softmax forms), θ_iᵀφ_j (dot product), w_fᵀ[θ_i, φ_j] (concatenation).

    theta (B, N, d), phi (B, M, d), w_f (2d,) -> (B, N, M). The concatenation is never built,
    since w_fᵀ[θ_i, φ_j] is the sum of one number for i and one for j.
    """
    if FUNCTIONS[pairwise].concatenated:
        assert w_f is not None
        w_theta, w_phi = w_f.chunk(2)
        return (theta @ w_theta).unsqueeze(2) + (phi @ w_phi).unsqueeze(1)
    s = theta @ phi.transpose(1, 2)
    return s if scale is None else s * scale


def weights(s: Tensor, pairwise: Pairwise, seen: Tensor | None = None) -> Tensor:
    """Turn scores into normalized weights f(x_i, x_j) / C(x).

    Softmax forms: exp(s_ij) / Σ_j exp(s_ij). Dot product: s_ij / M. Concatenation:
    relu(s_ij) / M. Sums and M are over the keys that a query sees.

    s (B, N, M), seen (B, N, M) booleans, or with axes of length 1; None is all -> (B, N, M). A
    query that sees no key has weights of zero.
    """
    function = FUNCTIONS[pairwise]
    if function.softmax:
        if seen is None:
            return s.softmax(dim=2)
        # the lowest finite number, not -inf: softmax of a row of -inf is NaN, also in backward
        s = s.masked_fill(~seen, torch.finfo(s.dtype).min)
        return s.softmax(dim=2).masked_fill(~seen, 0)
    f = s.relu() if function.relu else s
    if seen is None:
        return f / s.shape[2]
    count = seen.sum(dim=2, keepdim=True).clamp(min=1).to(s.dtype)
    return f.masked_fill(~seen, 0) / count
