"""Gaussian and embedded Gaussian, f = exp(s_ij), C = Σ_j f, without the N x M matrix.

`fused` calls torch's attention, where torch has a fused kernel for the input. `chunked` computes a
chunk of queries at a time with plain matrix products, and computes the weights again in backward.
`triton` uses our own kernels, for heads that are too wide for torch's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnet.ops.operators import operator
from nonlocalnet.ops.pairwise import scores, weights
from nonlocalnet.ops.precision import wide

Size = Sequence[int]


def fused(
    theta: Tensor, phi: Tensor, g: Tensor, mask: Tensor | None = None, *, scale: float | None
) -> Tensor:
    """Compute Σ_j softmax_j(scale · θ_iᵀφ_j) g_j by torch's scaled dot product attention.

    theta (B, N, d), phi (B, M, d), g (B, M, c), mask (B, M) -> (B, N, c). torch silently falls back
    to the N x M matrix for 3-D input and where the last axis is not dense; so an axis for one head
    is added, and such input is copied. There are no second derivatives.
    """
    attended = None
    if mask is not None:
        phi, g = _clear(phi, g, mask)
        # without real keys, a sample attends to all of its zeros: y = 0, where torch may give NaN
        attended = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]
    heads = [_dense(t).unsqueeze(1) for t in (theta, phi, g)]
    scale = 1.0 if scale is None else scale
    return F.scaled_dot_product_attention(*heads, attn_mask=attended, scale=scale).squeeze(1)


def chunked(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None,
    rows: int,
) -> Tensor:
    """Compute Σ_j softmax_j(scale · θ_iᵀφ_j) g_j, `rows` queries at a time.

    theta (B, N, d), phi (B, M, d), g (B, M, c) of one dtype, any strides; mask (B, M) booleans
    -> (B, N, c). Scores and weights are float32 at least, and hold B · rows · M numbers twice.
    Second derivatives are those of the reference, with its N x M matrix.
    """
    if mask is not None:
        phi, g = _clear(phi, g, mask)
    return _Chunked.apply(theta, phi, g, 1.0 if scale is None else scale, mask, rows)


def triton(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None,
    rows: int,
) -> Tensor:
    """Compute Σ_j softmax_j(scale · θ_iᵀφ_j) g_j by ops/kernels/softmax.py; arguments as `chunked`.

    Needs a GPU and has no second derivatives. Not measured yet, so "auto" never chooses it.
    """
    if theta.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"implementation='triton' needs tensors on a CUDA device; got {theta.device}: "
            "choose another implementation"
        )
    scale = 1.0 if scale is None else scale
    return _Triton.apply(theta, phi, g, scale, mask, rows)[0]


def _clear(phi: Tensor, g: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Zero the padding, whose values, even NaN, must not reach the result."""
    padding = ~mask.unsqueeze(2)
    return phi.masked_fill(padding, 0), g.masked_fill(padding, 0)


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Multiply x by y into at least float32; on a GPU without rounding to half first."""
    if x.dtype.itemsize == 2 and x.is_cuda:
        return torch.bmm(x, y, out_dtype=torch.float32)
    z = torch.bmm(x, y)
    return z.float() if z.dtype.itemsize == 2 else z


def _weights(theta: Tensor, phi: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """Compute softmax_j(scale · θ_iᵀφ_j): (B, n, d), (B, M, d) -> (B, n, M)."""
    s = _product(theta, phi.mT)
    if scale != 1:
        s *= scale
    if mask is None:
        return s.softmax(dim=2)
    padding = ~mask.unsqueeze(1)  # as `pairwise.weights`, in place
    s.masked_fill_(padding, torch.finfo(s.dtype).min)
    return s.softmax(dim=2).masked_fill_(padding, 0)


def _flops(d_products: int, c_products: int, theta: Size, phi: Size, g: Size) -> int:
    """Count the multiplications and additions of so many products N x M x d and N x M x c."""
    batch, n, d = theta
    return 2 * batch * n * phi[1] * (d_products * d + c_products * g[2])


@operator(
    fake=lambda theta, phi, g, *rest: g.new_empty(*theta.shape[:2], g.shape[2]),
    flops=lambda theta, phi, g, *rest: _flops(1, 1, theta, phi, g),
)
def softmax_sum(
    theta: Tensor, phi: Tensor, g: Tensor, scale: float, mask: Tensor | None, rows: int
) -> Tensor:
    """Compute Σ_j softmax_j(scale · θ_iᵀφ_j) g_j -> (B, N, c)."""
    y = g.new_empty(theta.shape[0], theta.shape[1], g.shape[2])
    for part, queries in zip(y.split(rows, dim=1), theta.split(rows, dim=1), strict=True):
        part.copy_(torch.bmm(_weights(queries, phi, scale, mask).to(g.dtype), g))
    return y


@operator(
    fake=lambda grad, theta, phi, g, *rest: tuple(t.new_empty(t.shape) for t in (theta, phi, g)),
    flops=lambda grad, theta, phi, g, *rest: _flops(3, 2, theta, phi, g),
)
def softmax_sum_backward(
    grad: Tensor,
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    y: Tensor,
    scale: float,
    mask: Tensor | None,
    rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of `softmax_sum` in theta, phi and g, a chunk of queries at a time."""
    sums = wide(g.dtype)
    dtheta = torch.empty(theta.shape, dtype=theta.dtype, device=theta.device)
    dphi = torch.zeros(phi.shape, dtype=sums, device=phi.device)
    dg = torch.zeros(g.shape, dtype=sums, device=g.device)
    for part, queries, grad_y, y_rows in zip(
        *(t.split(rows, dim=1) for t in (dtheta, theta, grad, y)), strict=True
    ):
        p = _weights(queries, phi, scale, mask)
        # ds = p (dp - Σ_j p dp), and Σ_j p dp = grad · y
        ds = _product(grad_y, g.mT)
        ds -= (grad_y * y_rows).sum(dim=2, keepdim=True, dtype=sums)
        ds = ds.mul_(p).mul_(scale).to(theta.dtype)
        _add_product(dg, p.to(g.dtype).mT, grad_y)
        _add_product(dphi, ds.mT, queries)
        part.copy_(torch.bmm(ds, phi))
        del p, ds  # free them before the next chunk
    return dtheta, dphi.to(phi.dtype), dg.to(g.dtype)


def _add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    if total.dtype == x.dtype:
        total.baddbmm_(x, y)
    else:
        total += _product(x, y)


class _Chunked(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(theta, phi, g, scale, mask, rows) -> Tensor:
        return softmax_sum(theta, phi, g, scale, mask, rows)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        theta, phi, g, ctx.scale, mask, ctx.rows = inputs
        ctx.save_for_backward(theta, phi, g, mask, output)

    @staticmethod
    def backward(ctx, grad: Tensor):  # ty: ignore
        theta, phi, g, mask, y = ctx.saved_tensors
        if torch.is_grad_enabled():
            three = _reference_backward(grad, theta, phi, g, ctx.scale, mask)
        else:
            three = softmax_sum_backward(grad, theta, phi, g, y, ctx.scale, mask, ctx.rows)
        return *three, None, None, None


def _reference_backward(
    grad: Tensor, theta: Tensor, phi: Tensor, g: Tensor, scale: float, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients by functions that are differentiable, for second derivatives."""
    sums = wide(g.dtype)
    grad, theta, phi, g = (t.to(sums) for t in (grad, theta, phi, g))
    seen = None if mask is None else mask.unsqueeze(1)
    p = weights(scores(theta, phi, "gaussian", scale=scale), "gaussian", seen)
    dp = grad @ g.mT
    ds = p * (dp - (p * dp).sum(dim=2, keepdim=True)) * scale
    return ds @ phi, ds.mT @ theta, p.mT @ grad


@operator(
    fake=lambda theta, phi, g, *rest: (
        g.new_empty(*theta.shape[:2], g.shape[2]),
        g.new_empty(theta.shape[:2], dtype=torch.float32),
    ),
    flops=lambda theta, phi, g, *rest: _flops(1, 1, theta, phi, g),
)
def attention(
    theta: Tensor, phi: Tensor, g: Tensor, scale: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute y (B, N, c) and the logarithm of the normalizer C (B, N) with our kernel."""
    from nonlocalnet.ops.kernels import softmax as kernels  # imports triton

    return kernels.forward(theta, phi, g, scale, mask)


@operator(
    fake=lambda grad, theta, phi, g, *rest: tuple(t.new_empty(t.shape) for t in (theta, phi, g)),
    flops=lambda grad, theta, phi, g, *rest: _flops(3, 2, theta, phi, g),
)
def attention_backward(
    grad: Tensor,
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    y: Tensor,
    lse: Tensor,
    scale: float,
    mask: Tensor | None,
    rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of `attention`'s y in theta, phi and g."""
    from nonlocalnet.ops.kernels import softmax as kernels

    return kernels.backward(theta, phi, g, y, lse, grad, scale, mask, block=rows)


class _Triton(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(theta, phi, g, scale, mask, rows) -> tuple[Tensor, Tensor]:
        return attention(theta, phi, g, scale, mask)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        theta, phi, g, ctx.scale, mask, ctx.rows = inputs
        y, lse = output
        ctx.mark_non_differentiable(lse)
        ctx.save_for_backward(theta, phi, g, mask, y, lse)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, _):
        theta, phi, g, mask, y, lse = ctx.saved_tensors
        three = attention_backward(grad, theta, phi, g, y, lse, ctx.scale, mask, ctx.rows)
        return *three, None, None, None
