# ty: ignore[invalid-argument-type]  (a jitted function is typed so that no call fits)
"""The softmax forms for wide heads on Hopper: y_i = Σ_j softmax_j(scale · θ_iᵀφ_j) g_j.

Forward keeps a running softmax and never writes an N x M matrix. Where c is over 256, the columns
of g are split over programs, each of which computes the scores again. The sum of one program then
fits in registers, at the cost of 1.5 times the products at d = c = 512.

Backward writes P and dS of a block of queries and leaves the rest to three matrix products: five
in all, where a flash backward of this width needs eight. There are no atomic additions, so the same
input gives the same bits.

Operands are read through tensor descriptors (TMA). They give zeros beyond an edge and 64-bit
addresses, and keep pointers out of the registers, which would spill at d = 512. (B, d, N) memory,
as a convolution writes it, is read without a copy.

Tiles were chosen for compute capability 9.0: 227 KiB of shared memory, 255 registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def forward(
    theta: Tensor, phi: Tensor, g: Tensor, scale: float | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute y_i = Σ_j softmax_j(scale · θ_iᵀφ_j) g_j without the N x M matrix.

    Args:
        theta: (B, N, d), the queries. B, N, M at least 1, any d and c, any strides; (B, N, d) and
            views of (B, d, N) are read without a copy if rows begin at multiples of 16 bytes.
        phi: (B, M, d), the keys.
        g: (B, M, c), the values. All three in one of float32, bfloat16, float16.
        scale: factor of the exponent; None is 1.
        mask: (B, M) booleans, True = a real key. Values in masked keys, even NaN, have no effect.

    Returns:
        y (B, N, c) in the dtype of g, and lse (B, N) float32, log Σ_j exp(scale · θ_iᵀφ_j).
        Scores, softmax and sums are float32, float32 products without TF32. A sample without a
        real key has y = 0 and lse = -inf.

    Raises:
        ValueError: the dtypes differ or are not one of the three.

    Source: paper, equations 2 and 3; running softmax: Milakov and Gimelshein, arXiv 1805.02867.
    """
    _check_dtypes(theta, phi, g)
    if mask is not None:
        mask = mask.contiguous()
        g = g.masked_fill(~mask.unsqueeze(2), 0)  # weights are 0 there, but 0 · NaN is NaN
    (batch, n, d), (m, c) = theta.shape, g.shape[1:]
    tiles = forward_tiles(g.dtype, d, c)
    bm, bn, bd, bc = (tiles[k] for k in ("BM", "BN", "BD", "BC"))
    operands, turned = _describe((theta, bm, bd), (phi, bn, bd), (g, bn, bc))
    row = _row(c)
    y = g.new_empty(batch, n, row)
    lse = g.new_empty(batch, n, dtype=torch.float32)
    grid = (batch * triton.cdiv(n, bm) * triton.cdiv(c, bc),)
    scale = 1.0 if scale is None else scale
    with torch.cuda.device_of(g):
        _forward[grid](*operands, mask, y, lse, scale, n, m, row, D=d, TURNED=turned, **tiles)
    return y[:, :, :c], lse


def probabilities_and_gradients(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    grad_y: Tensor,
    lse: Tensor,
    delta: Tensor,
    scale: float | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute P_ij = exp(scale · θ_iᵀφ_j - lse_i), dS_ij = scale · P_ij (∂y_iᵀg_j - delta_i).

    Args:
        theta, phi, g, scale, mask: as in `forward`; theta is the whole or a block of n queries.
        grad_y: (B, n, c), the gradient ∂y of the loss by y, in the dtype of g.
        lse: (B, n) float32, from `forward`.
        delta: (B, n) float32, Σ_c ∂y · y.

    Returns:
        P and dS, (B, n, M) each in the dtype of g. Both are 0 at masked keys.

    Raises:
        ValueError: as `forward`.

    Source: the derivative of equation 2: Σ_j P_ij = 1 makes dS = P (dP - Σ_j P dP).
    """
    _check_dtypes(theta, phi, g, grad_y)
    (batch, n, d), (m, c) = theta.shape, g.shape[1:]
    tiles = backward_tiles(g.dtype)
    bm, bn, bk = (tiles[k] for k in ("BM", "BN", "BK"))
    operands, turned = _describe((theta, bm, bk), (phi, bn, bk), (g, bn, bk), (grad_y, bm, bk))
    row = _row(m)
    p, ds = (g.new_empty(batch, n, row) for _ in range(2))
    mask = None if mask is None else mask.contiguous()
    scale = 1.0 if scale is None else scale
    grid = (batch * triton.cdiv(n, bm) * triton.cdiv(m, bn),)
    rest = (mask, lse.contiguous(), delta.contiguous(), p, ds, scale, n, m, d, c, row)
    with torch.cuda.device_of(g):
        _probabilities_and_gradients[grid](*operands, *rest, TURNED=turned, **tiles)
    return p[:, :, :m], ds[:, :, :m]


@torch.no_grad()
def backward(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    y: Tensor,
    lse: Tensor,
    grad_y: Tensor,
    scale: float | None = None,
    mask: Tensor | None = None,
    block: int = 2048,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients dθ = dS φ, dφ = dSᵀθ, dg = Pᵀ∂y, a block of queries at a time.

    Args:
        theta, phi, g, scale, mask: as in `forward`.
        y, lse: what `forward` returned.
        grad_y: (B, N, c), the gradient of the loss by y, in the dtype of g.
        block: queries at a time, which bounds the memory to two (B, block, M) matrices. 2048
            fill a GPU; a multiple of 8 avoids copies of (B, d, N) views.

    Returns:
        dtheta (B, N, d), dphi (B, M, d), dg (B, M, c) in the dtype of the inputs, summed in
        float32, without atomics. float32 products follow `torch.backends.cuda.matmul` (TF32).
        At masked keys dphi and dg are 0.

    Raises:
        ValueError: as `forward`.
    """
    if mask is not None:
        phi = phi.masked_fill(~mask.unsqueeze(2), 0)  # dS is 0 there, but 0 · NaN is NaN
    theta, phi, g, grad_y = (_readable(x) for x in (theta, phi, g, grad_y))
    dtheta = torch.empty_like(theta)
    dphi, dg = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (phi, g))
    for i in range(0, theta.shape[1], block):
        queries, grad = theta[:, i : i + block], grad_y[:, i : i + block]
        delta = (grad.float() * y[:, i : i + block]).sum(2)
        p, ds = probabilities_and_gradients(
            queries, phi, g, grad, lse[:, i : i + block], delta, scale, mask
        )
        _add_product(dg, p.mT, grad)
        _add_product(dphi, ds.mT, queries)
        torch.bmm(ds, phi, out=dtheta[:, i : i + block])
        del p, ds  # free them before the next block
    return dtheta, dphi.to(phi.dtype), dg.to(g.dtype)


def forward_tiles(dtype: torch.dtype, d: int, c: int) -> dict[str, int]:
    """Choose the tile: BM queries, BN keys, BD channels of theta and phi, BC of g.

    In 16 bits, theta stays in shared memory while d is at most 512, and BN is chosen so that two
    stages of phi and g fit beside it: 196,640 B at d = c = 256 and 229,408 B at 512, of 232,448.
    float32 products do not use tensor cores and hold operands in registers, so steps are short.
    """
    bc = min(256, max(16, triton.next_power_of_2(c)))  # BM x 256 sums: 128 registers of 255
    if dtype == torch.float32:
        return {"BM": 64, "BN": 64, "BD": 16, "BC": bc, "num_warps": 8, "num_stages": 2}
    if d > 512:
        return {"BM": 128, "BN": 64, "BD": 64, "BC": bc, "num_warps": 8, "num_stages": 4}
    bd = max(16, triton.next_power_of_2(d))
    bn = 64 if bd <= 256 else 32
    return {"BM": 128, "BN": bn, "BD": bd, "BC": bc, "num_warps": 8, "num_stages": 2}


def backward_tiles(dtype: torch.dtype) -> dict[str, int]:
    """Choose the tile of P and dS: BM queries, BN keys, both sums in steps of BK channels."""
    if dtype == torch.float32:
        return {"BM": 128, "BN": 64, "BK": 16, "num_warps": 8, "num_stages": 3}
    return {"BM": 128, "BN": 128, "BK": 64, "num_warps": 8, "num_stages": 3}


def _check_dtypes(*operands: Tensor) -> None:
    dtypes = {x.dtype for x in operands}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        allowed = ", ".join(map(str, DTYPES))
        got = ", ".join(str(x.dtype) for x in operands)
        raise ValueError(f"the operands must share one dtype of {allowed}; got {got}")


def _readable(x: Tensor) -> Tensor:
    """Copy x (B, n, c) unless TMA can read it: one unit stride, all else multiples of 16 bytes."""
    step = 16 // x.element_size()
    batch, n, c = x.shape
    strides = sorted(x.stride()[1:])
    rows = all(s > 0 and s % step == 0 for s in (x.stride(0), strides[1]))
    if strides[0] == 1 and rows and x.data_ptr() % 16 == 0:
        return x
    return x.new_empty(batch, n, step * triton.cdiv(c, step))[:, :, :c].copy_(x)


def _row(length: int) -> int:
    """Pad a row of results to 16 elements: scalar stores, of any length, spill registers."""
    return 16 * triton.cdiv(length, 16)


def _describe(*operands: tuple[Tensor, int, int]) -> tuple[list[TensorDescriptor], tuple]:
    """Make descriptors of (tensor, rows and columns of its tile); tell which are (B, c, n)."""
    descriptors, turned = [], []
    for x, rows, cols in operands:
        x, block = _readable(x), [1, rows, cols]
        turned.append(x.stride(2) != 1)
        if turned[-1]:
            x, block = x.mT, [1, cols, rows]
        descriptors.append(TensorDescriptor(x, list(x.shape), list(x.stride()), block))
    return descriptors, tuple(turned)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a b, in any dtype, to a float32 total."""
    if total.is_cuda and a.dtype != total.dtype:
        torch.baddbmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.baddbmm_(a.float(), b.float())


@triton.jit
def _forward(
    theta,
    phi,
    g,
    mask,
    y,
    lse,
    scale,
    n,
    m,
    row,
    D: tl.constexpr,
    TURNED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BC: tl.constexpr,
):
    # one axis, since the others are limited to 65,535; splits of the same queries are neighbors
    splits, tiles = tl.cdiv(row, BC), tl.cdiv(n, BM)
    pid = tl.program_id(0)
    column, i, sample = pid % splits * BC, pid // splits % tiles * BM, pid // splits // tiles
    if D <= BD:
        queries = _tile(theta, sample, i, 0, BM, BD, TURNED[0])
    top = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    weighted = tl.zeros((BM, BC), tl.float32)
    for j in range(0, m, BN):
        if D <= BD:
            keys = _tile(phi, sample, j, 0, BN, BD, TURNED[1])
            s = tl.dot(queries, keys.T, input_precision="ieee")
        else:
            s = _product(theta, phi, sample, i, j, D, BM, BN, BD, TURNED[0], TURNED[1])
        s = tl.where(_real(mask, sample, j, m, BN), s * scale, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        anchor = tl.where(higher == float("-inf"), 0.0, higher)  # -inf - -inf is NaN
        # exp, not exp2 of scores times log2(e): that product would round at the size of the score
        p = tl.exp(s - anchor[:, None])
        shrink = tl.exp(top - anchor)
        total = total * shrink + tl.sum(p, 1)
        values = _tile(g, sample, j, column, BN, BC, TURNED[2])
        p = p.to(values.dtype)
        weighted = tl.dot(p, values, weighted * shrink[:, None], input_precision="ieee")
        top = higher
    query, channel = i + tl.arange(0, BM), column + tl.arange(0, BC)
    place = sample.to(tl.int64) * n + query
    weighted = weighted / tl.where(total == 0, 1.0, total)[:, None]
    inside = (query < n)[:, None] & (channel < row)[None, :]
    tl.store(y + place[:, None] * row + channel[None, :], weighted.to(y.dtype.element_ty), inside)
    if column == 0:
        tl.store(lse + place, top + tl.log(total), query < n)


@triton.jit
def _probabilities_and_gradients(
    theta,
    phi,
    g,
    grad_y,
    mask,
    lse,
    delta,
    p_out,
    ds_out,
    scale,
    n,
    m,
    d,
    c,
    row,
    TURNED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    across, down = tl.cdiv(m, BN), tl.cdiv(n, BM)
    pid = tl.program_id(0)
    j, i, sample = pid % across * BN, pid // across % down * BM, pid // across // down
    s = _product(theta, phi, sample, i, j, d, BM, BN, BK, TURNED[0], TURNED[1])
    dp = _product(grad_y, g, sample, i, j, c, BM, BN, BK, TURNED[3], TURNED[2])
    query, key = i + tl.arange(0, BM), j + tl.arange(0, BN)
    place = sample.to(tl.int64) * n + query
    log_sum = tl.load(lse + place, query < n, 0.0)
    mean = tl.load(delta + place, query < n, 0.0)
    real = _real(mask, sample, j, m, BN)
    p = tl.where(real, tl.exp(s * scale - log_sum[:, None]), 0.0)
    ds = tl.where(real, p * (dp - mean[:, None]) * scale, 0.0)  # g may be NaN where p is 0
    at = place[:, None] * row + key[None, :]
    inside = (query < n)[:, None] & (key < row)[None, :]
    tl.store(p_out + at, p.to(p_out.dtype.element_ty), inside)
    tl.store(ds_out + at, ds.to(ds_out.dtype.element_ty), inside)


@triton.jit
def _product(
    a,
    b,
    sample,
    i,
    j,
    depth,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    A_TURNED: tl.constexpr,
    B_TURNED: tl.constexpr,
):
    """Sum a_iᵀb_j over all channels, a tile (BM, BN) in float32."""
    s = tl.zeros((BM, BN), tl.float32)
    for k in range(0, depth, BK):
        left = _tile(a, sample, i, k, BM, BK, A_TURNED)
        right = _tile(b, sample, j, k, BN, BK, B_TURNED)
        s = tl.dot(left, right.T, s, input_precision="ieee")
    return s


@triton.jit
def _tile(x, sample, row, col, ROWS: tl.constexpr, COLS: tl.constexpr, TURNED: tl.constexpr):
    if TURNED:
        return tl.reshape(x.load([sample, col, row]), (COLS, ROWS)).T
    return tl.reshape(x.load([sample, row, col]), (ROWS, COLS))


@triton.jit
def _real(mask, sample, j, m, BN: tl.constexpr):
    """Tell which keys are real, (1, BN): inside M and not masked."""
    key = j + tl.arange(0, BN)
    real = key < m
    if mask is not None:
        real = real & (tl.load(mask + sample.to(tl.int64) * m + key, real, 0) != 0)
    return real[None, :]
