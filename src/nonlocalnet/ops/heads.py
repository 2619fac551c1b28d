"""Several heads: each is the operation on its own group of channels, so heads become samples."""

from __future__ import annotations

import torch
from torch import Tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Make a sample of each head, a group of neighboring channels.

    (B, n, c) -> (B·heads, n, c/heads), a view where channels are first in memory.
    """
    if heads == 1:
        return x
    return x.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)


def join_heads(y: Tensor, heads: int) -> Tensor:
    """Invert `split_heads`: (B·heads, n, c/heads) -> (B, n, c)."""
    if heads == 1:
        return y
    return y.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def mask_of_heads(mask: Tensor | None, heads: int) -> Tensor | None:
    """Repeat the mask of the keys for each head: (B, M) -> (B·heads, M)."""
    return mask if mask is None or heads == 1 else mask.repeat_interleave(heads, dim=0)


def split_operands(
    theta: Tensor, phi: Tensor, mask: Tensor | None, w_f: Tensor | None, heads: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Make a sample of each head; w_f, of which each head has its own part, goes into θ and φ."""
    if heads > 1 and w_f is not None:
        w_theta, w_phi = w_f.chunk(2)
        if mask is not None:  # NaN in the padding must not reach a gradient
            phi = phi.masked_fill(~mask.unsqueeze(2), 0)
        theta, phi = theta * w_theta, phi * w_phi
        w_f = torch.ones_like(w_f[: len(w_f) // heads])
    theta, phi = split_heads(theta, heads), split_heads(phi, heads)
    return theta, phi, mask_of_heads(mask, heads), w_f
