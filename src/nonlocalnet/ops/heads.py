"""Several heads: each is the operation on its own group of channels, so heads become samples."""

from __future__ import annotations

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
