"""The public operation: check the input, choose the precision, compute."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from nonlocalnet.errors import check_choice
from nonlocalnet.ops import reference
from nonlocalnet.ops.pairwise import PAIRWISE, SOFTMAX_FORMS, Pairwise


def non_local(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    pairwise: Pairwise = "embedded_gaussian",
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    w_f: Tensor | None = None,
) -> Tensor:
    """Compute the non-local operation y_i = 1/C(x) · Σ_j f(x_i, x_j) g(x_j).

    ================== ============================ ==================
    pairwise           f(x_i, x_j)                  C(x)
    ================== ============================ ==================
    gaussian           exp(scale · θ_iᵀφ_j)         Σ_j f(x_i, x_j)
    embedded_gaussian  exp(scale · θ_iᵀφ_j)         Σ_j f(x_i, x_j)
    dot_product        θ_iᵀφ_j                      M
    concatenation      relu(w_fᵀ[θ_i, φ_j])         M
    ================== ============================ ==================

    For the plain Gaussian, theta and phi are the features x themselves.

    Args:
        theta: (B, N, d), the queries.
        phi: (B, M, d), the keys.
        g: (B, M, c), the values.
        pairwise: the function f, one of the four above.
        scale: factor of the exponent, softmax forms only; None is no scaling, as in the paper.
            The official code uses d ** -0.5.
        mask: (B, M) booleans, True = a real position. Masked keys weigh nothing, and M counts
            the others; where a sample has no real key, y is zero.
        w_f: (2d,), the weight of the concatenation's projection; that form only.

    Returns:
        (B, N, c) in the dtype of g. Sums are accumulated in float32 at least: float16 and
        bfloat16 are converted, and autocast does not apply inside.

    Raises:
        ValueError: an unknown pairwise function, shapes that do not fit, an option of another
            form.

    Source: paper, equations 1 to 4 and 6; official code `lib/models/nonlocal_helper.py`. The
    official code has embedded Gaussian and dot product only.

    >>> import torch, nonlocalnet as nl
    >>> theta, phi, g = torch.randn(2, 5, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 6)
    >>> nl.non_local(theta, phi, g, pairwise="dot_product").shape
    torch.Size([2, 5, 6])
    """
    _check(theta, phi, pairwise, scale, mask, w_f)
    if g.ndim != 3 or g.shape[:2] != phi.shape[:2]:
        raise ValueError(
            f"g must be (B, M, c) with the B and M of phi, {tuple(phi.shape[:2])}; "
            f"got {tuple(g.shape)}"
        )
    with _full_precision(theta.device.type):
        theta, phi, wide_g, w_f = _widen(theta, phi, g, w_f)
        y = reference.non_local(theta, phi, wide_g, pairwise, scale=scale, mask=mask, w_f=w_f)
    return y.to(g.dtype)


def affinity(
    theta: Tensor,
    phi: Tensor,
    pairwise: Pairwise = "embedded_gaussian",
    *,
    queries: Tensor | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
    w_f: Tensor | None = None,
) -> Tensor:
    """Compute rows of the weights a_ij = f(x_i, x_j) / C(x), so that y_i = Σ_j a_ij g(x_j).

    Rows of the softmax forms sum to one. Dot product's weights have signs; concatenation's are
    not negative; neither sums to one.

    Args:
        theta, phi, pairwise, scale, mask, w_f: as in `non_local`.
        queries: (Q,) or (B, Q) integers, the positions i whose rows are wanted; None is all N.

    Returns:
        (B, Q, M) in float32, or float64 for float64 input. No N x M matrix is made when queries
        are given.

    Raises:
        ValueError: as `non_local`, and queries that are not integers in [0, N).

    Source: paper, equation 1 and figure 3.

    >>> import torch, nonlocalnet as nl
    >>> theta, phi = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
    >>> rows = nl.affinity(theta, phi, queries=torch.tensor([0, 4]))
    >>> rows.shape, bool(torch.allclose(rows.sum(2), torch.ones(2, 2)))
    (torch.Size([2, 2, 3]), True)
    """
    _check(theta, phi, pairwise, scale, mask, w_f)
    if queries is not None:
        theta = _take(theta, queries)
    with _full_precision(theta.device.type):
        theta, phi, w_f = _widen(theta, phi, w_f)
        return reference.affinity(theta, phi, pairwise, scale=scale, mask=mask, w_f=w_f)


def _check(
    theta: Tensor,
    phi: Tensor,
    pairwise: str,
    scale: float | None,
    mask: Tensor | None,
    w_f: Tensor | None,
) -> None:
    check_choice("pairwise", pairwise, PAIRWISE)
    if theta.ndim != 3:
        raise ValueError(f"theta must be (B, N, d); got {tuple(theta.shape)}")
    batch, _, d = theta.shape
    if phi.ndim != 3 or phi.shape[0] != batch or phi.shape[2] != d:
        raise ValueError(
            f"phi must be (B, M, d) with the B and d of theta, ({batch}, M, {d}); "
            f"got {tuple(phi.shape)}"
        )
    if scale is not None and pairwise not in SOFTMAX_FORMS:
        raise ValueError(
            f"scale must be None for pairwise={pairwise!r}, which divides by the number of keys; "
            f"got {scale!r}"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != phi.shape[:2]):
        raise ValueError(
            f"mask must be booleans of shape (B, M) = {tuple(phi.shape[:2])}; "
            f"got {mask.dtype} of {tuple(mask.shape)}"
        )
    if pairwise == "concatenation":
        if w_f is None or w_f.shape != (2 * d,):
            got = None if w_f is None else tuple(w_f.shape)
            raise ValueError(f"w_f must be (2d,) = ({2 * d},) for concatenation; got {got}")
    elif w_f is not None:
        raise ValueError(f"w_f belongs to pairwise='concatenation'; got it with {pairwise!r}")


def _full_precision(device_type: str) -> contextlib.AbstractContextManager:
    """Switch autocast off; devices without it, such as meta, need nothing."""
    if not torch.amp.is_autocast_available(device_type):
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


def _widen(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Convert float16 and bfloat16 to float32; None stays None."""
    half = (torch.float16, torch.bfloat16)
    return tuple(t.float() if t is not None and t.dtype in half else t for t in tensors)  # ty: ignore


def _take(theta: Tensor, queries: Tensor) -> Tensor:
    batch, n, d = theta.shape
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
    return theta.gather(1, queries.unsqueeze(2).expand(-1, -1, d).long())
