"""Public functions of the operation: check the input, choose an implementation, compute."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from nonlocalnet.errors import check_choice
from nonlocalnet.ops import dot_product, reference, softmax
from nonlocalnet.ops.causal import frame_by_frame, seen
from nonlocalnet.ops.concatenation import concatenation
from nonlocalnet.ops.heads import join_heads, mask_of_heads, split_heads
from nonlocalnet.ops.pairwise import FUNCTIONS
from nonlocalnet.ops.plan import Implementation, Plan, choose
from nonlocalnet.ops.precision import common_dtype, wide, without_autocast
from nonlocalnet.options import Pairwise


def non_local(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    pairwise: Pairwise = "embedded_gaussian",
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    w_f: Tensor | None = None,
    w_z: Tensor | None = None,
    heads: int = 1,
    causal_frames: int | None = None,
    implementation: Implementation = "auto",
    memory_budget: int | None = None,
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

    Sums and M are over the keys that query i sees: all, or with `causal_frames` those of its own
    and earlier frames. For the plain Gaussian, theta and phi are the features x themselves. Every
    implementation is exact. Only the reference holds the whole N x M matrix; "auto" takes it where
    the matrix is small and nothing is faster.

    Args:
        theta: (B, N, d), the queries.
        phi: (B, M, d), the keys.
        g: (B, M, c), the values.
        pairwise: the function f, one of the four above.
        scale: factor of the exponent, for the softmax forms only. None means no scaling, as in
            the paper; the official code uses d ** -0.5.
        mask: (B, M) booleans, True = a real position. Masked keys have weight zero, and M counts
            the others; where a sample has no real key, y is zero.
        w_f: (2d,), the weight of the projection, for concatenation only.
        w_z: (k, c), a projection of y: W_z y is returned, multiplied in the cheaper order and
            in the memory layout of g (channels first or last).
        heads: number of heads, which divides d and c. Head h is the operation on the h-th group of
            d/heads channels of theta, phi and both halves of w_f, and c/heads channels of g and y.
        causal_frames: T, if positions are those of T frames, ordered frame by frame, and a query
            sees only keys of its own and earlier frames. T divides N and M. None: a query sees
            all keys.
        implementation: how it is computed. "auto" chooses the fastest, and `explain` tells which;
            the others are for comparison: "reference" (all functions), "linear" (dot product),
            "sorted" (concatenation), "fused", "chunked" and "triton" (softmax forms).
        memory_budget: bytes that N x M-shaped tensors may take at a time; None is 128 MiB.

    Returns:
        (B, N, c), or (B, N, k) with w_z, in the dtype of g. Sums are accumulated in at least
        float32. Scores and weights are float32 too, unless the inputs are bfloat16 and the CPU
        has bfloat16 units. Autocast does not apply inside. All implementations but "fused" and
        "triton" have second derivatives.

    Raises:
        ValueError: an unknown pairwise function, shapes that do not fit, or an option or
            implementation that this pairwise function does not have.

    Source: paper, equations 1 to 4 and 6; official code `lib/models/nonlocal_helper.py`. The
    official code has embedded Gaussian and dot product only.

    >>> import torch, nonlocalnet as nl
    >>> theta, phi, g = torch.randn(2, 5, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 6)
    >>> nl.non_local(theta, phi, g, pairwise="dot_product").shape
    torch.Size([2, 5, 6])
    """
    plan = explain(
        theta,
        phi,
        g,
        pairwise,
        scale=scale,
        mask=mask,
        w_f=w_f,
        heads=heads,
        causal_frames=causal_frames,
        implementation=implementation,
        memory_budget=memory_budget,
    )
    if w_z is not None and (w_z.ndim != 2 or w_z.shape[1] != g.shape[2]):
        raise ValueError(f"w_z must be (k, c) with c = {g.shape[2]}; got {tuple(w_z.shape)}")
    with without_autocast(theta.device.type):
        theta, phi, values, w_f = _to(plan.dtype, theta, phi, g, w_f)
        if plan.implementation == "linear":
            keys = dot_product.summaries(phi, values, mask, heads=heads, frames=causal_frames)
            y = dot_product.from_summaries(theta, keys, causal_frames, w_z=w_z, like=g)
        else:
            theta, phi, mask, w_f = _split_heads(theta, phi, mask, w_f, heads)
            values = split_heads(values, heads)
            y = _compute(plan, theta, phi, values, pairwise, scale, mask, w_f, causal_frames)
            y = join_heads(y, heads)
            y = y if w_z is None else dot_product.project(y, w_z, like=g)
    return y.to(g.dtype)


def _compute(
    plan: Plan,
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    pairwise: Pairwise,
    scale: float | None,
    mask: Tensor | None,
    w_f: Tensor | None,
    frames: int | None,
) -> Tensor:
    """Compute one head by any implementation but "linear"."""
    if plan.implementation == "sorted":
        assert w_f is not None
        return concatenation(theta, phi, g, mask, w_f=w_f, frames=frames)
    if plan.implementation == "reference":
        options = {"scale": scale, "mask": mask, "w_f": w_f, "frames": frames}
        return reference.non_local(theta, phi, g, pairwise, **options)
    if plan.implementation == "fused":
        compute = partial(softmax.fused, scale=scale)
    else:
        compute = softmax.chunked if plan.implementation == "chunked" else softmax.triton
        compute = partial(compute, scale=scale, rows=plan.rows or 1)
    return frame_by_frame(compute, theta, phi, g, mask, frames)


def explain(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    pairwise: Pairwise = "embedded_gaussian",
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    w_f: Tensor | None = None,
    heads: int = 1,
    causal_frames: int | None = None,
    implementation: Implementation = "auto",
    memory_budget: int | None = None,
) -> Plan:
    """Tell which implementation `non_local` chooses for this input, and why.

    Args:
        theta, phi, g, pairwise, scale, mask, w_f, heads, causal_frames, implementation,
            memory_budget: as in `non_local`.

    Returns:
        The plan; str() gives the implementation and the reason, `matrix_bytes` the memory.

    Raises:
        ValueError: as `non_local`.

    >>> import torch, nonlocalnet as nl
    >>> theta, phi, g = torch.randn(1, 4000, 8), torch.randn(1, 1000, 8), torch.randn(1, 1000, 8)
    >>> print(nl.explain(theta, phi, g, "dot_product"))
    linear: 200.0 times fewer multiply-adds
    """
    _check(theta, phi, pairwise, scale, mask, w_f, heads, causal_frames)
    if g.ndim != 3 or g.shape[:2] != phi.shape[:2]:
        raise ValueError(
            f"g must be (B, M, c) with the B and M of phi, {tuple(phi.shape[:2])}; "
            f"got {tuple(g.shape)}"
        )
    _check_divides("heads", heads, {"d": theta.shape[2], "c": g.shape[2]})
    tensors = [t for t in (theta, phi, g, w_f) if t is not None]
    return choose(
        pairwise,
        (theta.shape[0], theta.shape[1], phi.shape[1], theta.shape[2], g.shape[2]),
        dtype=common_dtype(theta, phi, g),
        device=theta.device.type,
        grad=torch.is_grad_enabled() and any(t.requires_grad for t in tensors),
        heads=heads,
        frames=causal_frames,
        implementation=implementation,
        memory_budget=memory_budget,
    )


def affinity(
    theta: Tensor,
    phi: Tensor,
    pairwise: Pairwise = "embedded_gaussian",
    *,
    queries: Tensor | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
    w_f: Tensor | None = None,
    heads: int = 1,
    causal_frames: int | None = None,
) -> Tensor:
    """Compute rows of the weights a_ij = f(x_i, x_j) / C(x), so that y_i = Σ_j a_ij g(x_j).

    Rows of the softmax forms sum to one. Rows of the other two do not, and weights of the dot
    product may be negative.

    Args:
        theta, phi, pairwise, scale, mask, w_f, heads, causal_frames: as in `non_local`.
        queries: (Q,) or (B, Q) integers, the positions i whose rows to compute; None is all N.

    Returns:
        (B, Q, M) in float32, or float64 for float64 input; (B, heads, Q, M) if there are several
        heads. Keys that a query does not see have weight 0. With queries, only these rows are
        computed.

    Raises:
        ValueError: as `non_local`, or if queries are not integers in [0, N).

    Source: paper, equation 1 and figure 3.

    >>> import torch, nonlocalnet as nl
    >>> theta, phi = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
    >>> rows = nl.affinity(theta, phi, queries=torch.tensor([0, 4]))
    >>> rows.shape, bool(torch.allclose(rows.sum(2), torch.ones(2, 2)))
    (torch.Size([2, 2, 3]), True)
    """
    _check(theta, phi, pairwise, scale, mask, w_f, heads, causal_frames)
    if queries is not None:
        queries = _each_sample(queries, theta)
    visible = None
    if causal_frames is not None:
        n = theta.shape[1]
        every = torch.arange(n, device=theta.device).unsqueeze(0) if queries is None else queries
        visible = seen(every // (n // causal_frames), phi.shape[1], causal_frames)
        visible = visible.repeat_interleave(heads, dim=0) if len(visible) > 1 else visible
    if queries is not None:
        index = queries.unsqueeze(2).expand(-1, -1, theta.shape[2])
        theta = theta.gather(1, index.long())
    with without_autocast(theta.device.type):
        theta, phi, w_f = _to(wide(common_dtype(theta, phi)), theta, phi, w_f)
        theta, phi, mask, w_f = _split_heads(theta, phi, mask, w_f, heads)
        options = {"scale": scale, "mask": mask, "w_f": w_f, "seen": visible}
        rows = reference.affinity(theta, phi, pairwise, **options)
    return rows if heads == 1 else rows.unflatten(0, (-1, heads))


def _split_heads(
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


def _check(
    theta: Tensor,
    phi: Tensor,
    pairwise: str,
    scale: float | None,
    mask: Tensor | None,
    w_f: Tensor | None,
    heads: int,
    causal_frames: int | None,
) -> None:
    check_choice("pairwise", pairwise, FUNCTIONS)
    if theta.ndim != 3:
        raise ValueError(f"theta must be (B, N, d); got {tuple(theta.shape)}")
    batch, _, d = theta.shape
    if phi.ndim != 3 or phi.shape[0] != batch or phi.shape[2] != d:
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
    _check_divides("heads", heads, {"d": d})
    if causal_frames is not None:
        _check_divides("causal_frames", causal_frames, {"N": theta.shape[1], "M": phi.shape[1]})


def _check_divides(name: str, number: int, sizes: dict[str, int]) -> None:
    if number < 1 or any(size % number for size in sizes.values()):
        given = " and ".join(f"{key} = {size}" for key, size in sizes.items())
        raise ValueError(f"{name} must be at least 1 and divide {given}; got {number!r}")


def _to(dtype: torch.dtype, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Convert tensors to a dtype; None stays None."""
    return tuple(None if t is None else t.to(dtype) for t in tensors)  # ty: ignore


def _each_sample(queries: Tensor, theta: Tensor) -> Tensor:
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
