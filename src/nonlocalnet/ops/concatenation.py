"""Concatenation, f = relu(a_i + b_j), in O((N + M)(log M + c)) and without the N x M matrix.

Sort the keys so that b_1 >= ... >= b_M. Then the k_i keys with a_i + b_j > 0, which are active for
query i, come first, and sums over them are rows of two tables of prefix sums:

    Σ_j relu(a_i + b_j) g_j = (a_i + b_k) S_k + T_k        k = k_i
    S_k = Σ_{r<=k} g_r,     T_k = T_{k-1} + (b_{k-1} - b_k) S_{k-1},     T_1 = 0

No factor here is negative, so nothing cancels, however far a and b are from zero: the errors are
those of the sum itself. (The simpler form a_i Σ g + Σ b g loses all digits.) The gradient is the
same operator with queries and keys exchanged:

    da_i = G_i · Σ_j [a_i + b_j > 0] g_j,   db_j = g_j · Σ_i [a_i + b_j > 0] G_i,
    dg_j = Σ_i relu(a_i + b_j) G_i
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnet.ops.causal import frame_by_frame, join_frames, split_frames
from nonlocalnet.ops.operators import operator
from nonlocalnet.ops.plan import recording

BLOCK = 64  # rows of the inner prefix sum
SLAB = 2**20  # most numbers in a table, so that it stays in a processor's cache


def concatenation(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    mask: Tensor | None = None,
    *,
    w_f: Tensor,
    frames: int | None = None,
) -> Tensor:
    """Compute y_i = 1/M · Σ_j relu(w_fᵀ[θ_i, φ_j]) g_j, with gradients of every order.

    theta (B, N, d), phi (B, M, d), g (B, M, c), w_f (2d,), all float32 or all float64; mask (B, M)
    booleans, True = a real position, and M counts only those -> (B, N, c). With `frames`, a query
    sees, and M counts, only keys of its own and earlier frames.

    Source: paper, equation 6. relu'(0) is 0, as in torch.
    """
    if frames is not None and recording():  # a program for any number of frames
        return frame_by_frame(partial(concatenation, w_f=w_f), theta, phi, g, mask, frames)
    w_theta, w_phi = w_f.chunk(2)
    if mask is not None:  # NaN in the padding must not reach a gradient; g = 0 keeps it from sums
        phi, g = (x.masked_fill(~mask.unsqueeze(2), 0) for x in (phi, g))
    a, b = theta @ w_theta, phi @ w_phi
    if frames is not None:
        sums = split_frames(_causal_relu_sum(a, b, g, frames), frames)
        return join_frames(sums / _count_seen(g, mask, frames), frames)
    # divide g, the smallest tensor: dividing a and b could round the sign of a_i + b_j away
    if mask is None:
        g = g / g.shape[1]
    else:
        g = g / mask.sum(dim=1).clamp(min=1).to(g.dtype)[:, None, None]
    if recording():  # the program may use only torch's operators
        return _relu_sum(a, b, g)
    return _ReluSum.apply(a, b, g)


def _causal_relu_sum(a: Tensor, b: Tensor, g: Tensor, frames: int) -> Tensor:
    """Compute Σ_j relu(a_i + b_j) g_j over the keys of frames up to that of query i.

    Queries of the second half of the frames see all keys of the first half; within the halves, the
    task is the same again. Thus a position takes part in log2(T) + 1 whole sums, not in T.
    """
    if frames == 1:
        return _ReluSum.apply(a, b, g)
    half = frames // 2
    n, m = (half * (x.shape[1] // frames) for x in (a, b))
    early = _causal_relu_sum(a[:, :n], b[:, :m], g[:, :m], half)
    late = _causal_relu_sum(a[:, n:], b[:, m:], g[:, m:], frames - half)
    return torch.cat([early, late + _ReluSum.apply(a[:, n:], b[:, :m], g[:, :m])], dim=1)


def _count_seen(g: Tensor, mask: Tensor | None, frames: int) -> Tensor:
    """Count the real keys that queries of each frame see, at least 1: (B·T, 1, 1)."""
    real = g.new_ones(g.shape[:2]) if mask is None else mask.to(g.dtype)
    count = real.unflatten(1, (frames, -1)).sum(dim=2).cumsum(dim=1)
    return count.clamp(min=1).view(-1, 1, 1)


@operator(
    fake=lambda a, b, g: g.new_empty(*a.shape, g.shape[2]),
    flops=lambda a, b, g: g[0] * g[2] * (2 * a[1] + 3 * b[1]),  # a row of two tables; both tables
)
def relu_sum(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """Compute Σ_j relu(a_i + b_j) g_j: (B, N), (B, M), (B, M, c) -> (B, N, c)."""
    return _relu_sum(a, b, g)


@operator(
    fake=lambda a, b, g: g.new_empty(*a.shape, g.shape[2]),
    flops=lambda a, b, g: g[0] * g[2] * b[1],  # one table
)
def step_sum(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """Compute Σ_j [a_i + b_j > 0] g_j: (B, N), (B, M), (B, M, c) -> (B, N, c)."""
    keys = _sort_keys(a, b)
    return torch.cat([keys.rows(keys.prefix_sums(part)) for part in _slabs(a, b, g)], dim=2)


@operator(
    fake=lambda grad, a, b, g: tuple(t.new_empty(t.shape) for t in (a, b, g)),
    # da and the keys' table; db, dg and the queries' two tables
    flops=lambda grad, a, b, g: g[0] * g[2] * (2 * a[1] + b[1] + 2 * b[1] + 2 * b[1] + 3 * a[1]),
)
def relu_sum_backward(
    grad: Tensor, a: Tensor, b: Tensor, g: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of `relu_sum` in a, b and g, a slab of channels at a time."""
    keys, queries = _sort_keys(a, b), _sort_keys(b, a)
    da, db, dg = a.new_zeros(a.shape), b.new_zeros(b.shape), g.new_empty(g.shape)
    slabs = zip(_slabs(a, b, grad), _slabs(a, b, g), _slabs(a, b, dg), strict=True)
    for grad_part, g_part, dg_part in slabs:
        da += (grad_part * keys.rows(keys.prefix_sums(g_part))).sum(dim=2)
        sums = queries.prefix_sums(grad_part)
        steps = queries.rows(sums)
        db += (g_part * steps).sum(dim=2)
        dg_part.copy_(queries.relu_rows(steps, sums))
    return da, db, dg


def _relu_sum(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    keys = _sort_keys(a, b)
    parts = []
    for part in _slabs(a, b, g):
        sums = keys.prefix_sums(part)
        parts.append(keys.relu_rows(keys.rows(sums), sums))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class _SortedKeys(NamedTuple):
    """Keys b in falling order, and which of them are active for each query of a."""

    order: Tensor  # (B, M), indices of the keys, largest first
    last: Tensor  # (B, N), position of the last active key in that order; 0 where none is active
    none: Tensor  # (B, N, 1), True where no key is active
    above: Tensor  # (B, N, 1), a_i + b_last; 0 where no key is active
    gaps: Tensor  # (B, M, 1), how far a key is below the one before; 0 for the first

    def prefix_sums(self, g: Tensor) -> Tensor:
        """Compute the table S: (B, M, c) -> (B, M, c)."""
        return _prefix_sums(_take(g, self.order))

    def rows(self, table: Tensor) -> Tensor:
        """Take row k_i of a table for every query: (B, M, c) -> (B, N, c)."""
        return _take(table, self.last).masked_fill_(self.none, 0)

    def relu_rows(self, steps: Tensor, sums: Tensor) -> Tensor:
        """Compute (a_i + b_k) S_k + T_k from the rows S_k and the table S."""
        falls = F.pad(sums, (0, 0, 1, -1)).mul_(self.gaps)  # (b_{k-1} - b_k) S_{k-1}
        return self.rows(_prefix_sums(falls)).addcmul_(steps, self.above)


def _sort_keys(a: Tensor, b: Tensor) -> _SortedKeys:
    ascending, order = (-b).sort(dim=1)
    count = torch.searchsorted(ascending, a.contiguous())  # keys with b_j > -a_i, strictly
    last, none = (count - 1).clamp_(min=0), (count == 0).unsqueeze(2)
    b = -ascending
    # sorting puts a NaN key last, where no query would use it; it must make its sample NaN
    poison = torch.where(b.isnan().any(dim=1), torch.nan, 0.0).to(b.dtype)[:, None, None]
    above = torch.where(none, 0, (a + b.gather(1, last)).unsqueeze(2)) + poison
    # keys that are active for no query may be hugely negative; their gaps must not overflow
    highest = a.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).amax(1, True)
    b = torch.maximum(b, -highest)
    gaps = F.pad(b, (1, -1)) - b
    gaps[:, 0] = 0
    return _SortedKeys(order, last, none, above, gaps.unsqueeze(2))


def _prefix_sums(x: Tensor) -> Tensor:
    """Compute the sums of rows 0 to r for every r, in place: (B, M, c).

    There are two levels, because torch's cumsum is several times slower along an axis that is not
    the last, and because one long chain of float32 additions would lose digits.
    """
    batch, m, c = x.shape
    if recording() or (x.device.type == "cpu" and m * c < 2**17):
        return x.cumsum(dim=1)
    whole = m - m % BLOCK
    blocks = x[:, :whole].view(batch, -1, BLOCK, c)
    if x.device.type == "cpu":
        for r in range(1, BLOCK):
            blocks[:, :, r] += blocks[:, :, r - 1]
    else:
        torch.cumsum(blocks, dim=2, out=blocks)
    blocks[:, 1:] += blocks[:, :-1, -1].cumsum(dim=1).unsqueeze(2)
    x[:, whole:] = x[:, whole:].cumsum(dim=1)
    if 0 < whole < m:
        x[:, whole:] += x[:, whole - 1 : whole]
    return x


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Take rows by index: x (B, M, c), index (B, N) -> (B, N, c)."""
    batch, m, c = x.shape
    offset = torch.arange(batch, device=x.device).unsqueeze(1) * m
    return x.reshape(-1, c).index_select(0, (index + offset).flatten()).view(batch, -1, c)


def _slabs(a: Tensor, b: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Split the channels of x (B, ., c) so that tables stay in a processor's cache."""
    if x.device.type != "cpu" or recording():
        return (x,)
    positions = max(a.numel(), b.numel())
    return x.split(max(32, SLAB // positions), dim=2)


class _ReluSum(torch.autograd.Function):
    """`relu_sum` with its gradient; torch.func cannot transform an operator's own gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        return relu_sum(a, b, g)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor):  # ty: ignore
        a, b, g = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return relu_sum_backward(grad, a, b, g)
        # for second derivatives: the same by functions that are differentiable
        da = (grad * _StepSum.apply(a, b, g)).sum(dim=2)
        db = (g * _StepSum.apply(b, a, grad)).sum(dim=2)
        return da, db, _ReluSum.apply(b, a, grad)


class _StepSum(torch.autograd.Function):
    """`step_sum` with its gradient: piecewise constant in a and b, and linear in g."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        return step_sum(a, b, g)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, grad: Tensor):  # ty: ignore
        a, b = ctx.saved_tensors
        return None, None, _StepSum.apply(b, a, grad)
