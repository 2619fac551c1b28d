"""Dot product in the cheaper order, θ (φᵀ g / M): linear in the number of positions.

y_i = 1/M · Σ_j (θ_iᵀφ_j) g_j = θ_iᵀ (Σ_j φ_j g_jᵀ / M)        (paper, equation 4)

takes (N + M) d c multiply-adds instead of N M (d + c), and twice as many in backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nonlocalnet.ops.plan import recording


def summary(phi: Tensor, g: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute Σ_j φ_j g_jᵀ / M, the only thing that queries need from the keys.

    phi (B, M, d), g (B, M, c) of one dtype; mask (B, M) booleans, True = a real position, and M
    counts only those -> (B, d, c).
    """
    if mask is not None:
        padding = ~mask.unsqueeze(2)
        count = mask.sum(dim=1).clamp(min=1).to(g.dtype)
        g = g.masked_fill(padding, 0) / count[:, None, None]
        return torch.bmm(phi.masked_fill(padding, 0).mT, g)
    if recording():  # alpha would fix the number of keys in the program
        return torch.bmm(phi.mT, g / g.shape[1])
    # divide inside the product: the sum alone exceeds float16 where M · mean(φ g) > 65504
    unused = g.new_empty(1, 1, 1)
    return torch.baddbmm(unused, phi.mT, g, beta=0, alpha=1 / g.shape[1])
