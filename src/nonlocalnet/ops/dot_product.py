"""Dot product in the cheaper order, θ (φᵀ g / M): linear in the number of positions.

y_i = 1/M · Σ_j (θ_iᵀφ_j) g_j = θ_iᵀ (Σ_j φ_j g_jᵀ / M)        (paper, equation 4)

takes (N + M) d c multiply-adds instead of N M (d + c), and twice as many in backward. In a
frame-causal extent, the sums in brackets are running sums over frames.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nonlocalnet.ops.causal import join_frames, split_frames
from nonlocalnet.ops.heads import join_heads, mask_of_heads, split_heads
from nonlocalnet.ops.plan import recording
from nonlocalnet.ops.precision import product_dtype, wide


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


def summaries(
    phi: Tensor,
    g: Tensor,
    mask: Tensor | None = None,
    *,
    heads: int = 1,
    frames: int | None = None,
    add: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Compute the summary of each head; with frames, for each frame t that of frames 0 to t.

    phi (B, M, d), g (B, M, c), mask (B, M) -> (B, heads, d/heads, c/heads), with B·T for B where
    there are frames. `add` adds the frames before these to the running sums (B, T, heads, d/heads,
    c/heads) and counts (B, T, 1, 1, 1), whose unit is a real key, or a frame without a mask.
    """
    phi, g = (split_heads(split_frames(x, frames), heads) for x in (phi, g))
    real = None if mask is None else split_frames(mask, frames)
    found = summary(phi, g, mask_of_heads(real, heads)).unflatten(0, (-1, heads))
    if frames is None:
        return found
    own = found.new_ones(found.shape[0]) if real is None else real.sum(dim=1)
    own = own.to(wide(found.dtype)).view(-1, frames, 1, 1, 1)  # each frame's share of the keys
    sums, counts = (found.unflatten(0, (-1, frames)) * own).cumsum(dim=1), own.cumsum(dim=1)
    if add is not None:
        sums, counts = add(sums, counts)
    return (sums / counts.clamp(min=1)).to(found.dtype).flatten(0, 1)


def fold(keys: Tensor, w_z: Tensor) -> Tensor:
    """Multiply W_z (k, c) into summaries (B, heads, d', c'): -> (B, 1, d, k), of one head."""
    by_head = w_z.to(keys.dtype).unflatten(1, (keys.shape[1], -1)).permute(1, 2, 0)
    return (keys @ by_head).flatten(1, 2).unsqueeze(1)


def fold_pays(theta: Tensor, keys: Tensor, w_z: Tensor) -> bool:
    """Tell whether W_z (keys) is cheaper than W_z (y); an export folds at any size."""
    samples, heads, d, c = keys.shape
    k, n = w_z.shape[0], theta.shape[0] * theta.shape[1] // max(samples, 1)
    folded = heads * d * (c * k + n * k)
    return recording() or folded < n * heads * (d * c + c * k)


def attend(
    theta: Tensor, keys: Tensor, frames: int | None = None, like: Tensor | None = None
) -> Tensor:
    """Compute θ_iᵀ (summary of the keys that i sees), in the memory layout of `like`.

    theta (B, N, d), keys (B, heads, d/heads, c/heads), with B·T for B where there are frames
    -> (B, N, c).
    """
    heads = keys.shape[1]
    queries = split_heads(split_frames(theta, frames), heads)
    y = times(queries, keys.flatten(0, 1), like)
    return join_frames(join_heads(y, heads), frames)


def from_summaries(
    theta: Tensor, keys: Tensor, frames: int | None, *, w_z: Tensor | None, like: Tensor
) -> Tensor:
    """Compute y from summaries, as `attend`; or W_z y in the cheaper order, laid out as `like`."""
    if w_z is not None and fold_pays(theta, keys, w_z):
        return attend(theta, fold(keys, w_z), frames, like=like)
    y = attend(theta, keys, frames)
    return y if w_z is None else project(y, w_z, like)


def project(y: Tensor, w_z: Tensor, like: Tensor) -> Tensor:
    """Compute W_z y, (B, N, c) -> (B, N, k), in the memory layout of `like` and for its dtype."""
    dtype = product_dtype(like.dtype, like.device.type)
    return times(y.to(dtype), w_z.to(dtype).mT.expand(y.shape[0], -1, -1), like=like)


def times(rows: Tensor, matrix: Tensor, like: Tensor | None = None) -> Tensor:
    """Multiply (B, N, c) by (B, c, k), in the memory layout of `like` (B, M, c)."""
    if like is None or like.stride(2) == 1:
        return torch.bmm(rows, matrix)
    return torch.bmm(matrix.mT, rows.mT).mT
