"""Check the arguments of the operation."""

from __future__ import annotations

import torch
from torch import Tensor

from nonlocalnet.errors import check_choice
from nonlocalnet.ops.pairwise import FUNCTIONS


def check_arguments(
    theta: Tensor,
    phi: Tensor,
    pairwise: str,
    scale: float | None,
    mask: Tensor | None,
    w_f: Tensor | None,
    heads: int,
    causal_frames: int | None,
) -> None:
    """Raise unless arguments of `non_local` fit together."""
    check_choice("pairwise", pairwise, FUNCTIONS)
    if theta.ndim != 3:
        raise ValueError(f"theta must be (B, N, d); got {tuple(theta.shape)}")
    batch, _, d = theta.shape
    if phi.ndim != 3 or phi.shape[::2] != (batch, d):
        raise ValueError(
            f"phi must be (B, M, d) with the B and d of theta, ({batch}, M, {d}); "
            f"got {tuple(phi.shape)}"
        )
    if scale is not None and not FUNCTIONS[pairwise].softmax:
        raise ValueError(
            f"scale must be None for pairwise={pairwise!r}, which divides by the number of keys; "
            f"got {scale!r}"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != phi.shape[:2]):
        raise ValueError(
            f"mask must be booleans of shape (B, M) = {tuple(phi.shape[:2])}; "
            f"got {mask.dtype} of {tuple(mask.shape)}"
        )
    if FUNCTIONS[pairwise].concatenated:
        if w_f is None or w_f.shape != (2 * d,):
            got = None if w_f is None else tuple(w_f.shape)
            raise ValueError(f"w_f must be (2d,) = ({2 * d},) for concatenation; got {got}")
    elif w_f is not None:
        raise ValueError(f"w_f belongs to pairwise='concatenation'; got it with {pairwise!r}")
    check_divides("heads", heads, {"d": d})
    if causal_frames is not None:
        check_divides("causal_frames", causal_frames, {"N": theta.shape[1], "M": phi.shape[1]})


def check_divides(name: str, number: int, sizes: dict[str, int]) -> None:
    """Raise unless a number divides sizes."""
    if number == 1:
        return
    if number < 1 or any(size % number for size in sizes.values()):
        given = " and ".join(f"{key} = {size}" for key, size in sizes.items())
        raise ValueError(f"{name} must be at least 1 and divide {given}; got {number!r}")


def queries_of_samples(queries: Tensor, theta: Tensor) -> Tensor:
    """Check queries (Q,) or (B, Q) for theta (B, N, d), and expand them to (B, Q)."""
    batch, n, _ = theta.shape
    if queries.ndim == 1:
        queries = queries.expand(batch, -1)
    integers = queries.dtype in (torch.int64, torch.int32)
    if queries.ndim != 2 or queries.shape[0] != batch or not integers:
        raise ValueError(
            f"queries must be integers (int64 or int32) of shape (Q,) or (B, Q) with B = {batch}; "
            f"got {queries.dtype} of {tuple(queries.shape)}"
        )
    if queries.numel() and not (int(queries.min()) >= 0 and int(queries.max()) < n):
        raise ValueError(
            f"queries must lie in [0, {n}); got {int(queries.min())} to {int(queries.max())}"
        )
    return queries
