"""Public functions of the operation: check the input, choose an implementation, compute."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nonlocalnet.ops import dot_product, reference, softmax
from nonlocalnet.ops.arguments import check_arguments, check_divides, queries_of_samples
from nonlocalnet.ops.causal import frame_by_frame, seen
from nonlocalnet.ops.concatenation import concatenation
from nonlocalnet.ops.heads import join_heads, split_heads, split_operands
from nonlocalnet.ops.plan import IMPLEMENTATIONS_OF, Implementation, Plan, choose
from nonlocalnet.ops.precision import common_dtype, wide, without_autocast
from nonlocalnet.ops.sharing import Processes, share_keys
from nonlocalnet.options import Pairwise

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


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
    group: ProcessGroup | Processes | None = None,
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
        group: the processes over which positions are shared out, rank 0 with the first ones. Each
            passes its own queries, keys and mask, any number of them (whole frames, if causal),
            and gets y of its own queries. Dot product sums a d x c matrix of each sample over the
            processes; the other functions gather all keys. Each process must call backward, too;
            gradients are those of the sum of all processes' losses. None: there is one process.
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
            implementation that this pairwise function does not have; a group without this process,
            or whose processes compute different operations.

    Source: paper, equations 1 to 4 and 6; official code `lib/models/nonlocal_helper.py`. The
    official code has embedded Gaussian and dot product only.

    >>> import torch, nonlocalnet as nl
    >>> theta, phi, g = torch.randn(2, 5, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 6)
    >>> nl.non_local(theta, phi, g, pairwise="dot_product").shape
    torch.Size([2, 5, 6])
    """
    linear = group is not None and "linear" in IMPLEMENTATIONS_OF.get(pairwise, ())
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
        implementation="linear" if linear and implementation == "auto" else implementation,
        memory_budget=memory_budget,
    )
    if w_z is not None and (w_z.ndim != 2 or w_z.shape[1] != g.shape[2]):
        raise ValueError(f"w_z must be (k, c) with c = {g.shape[2]}; got {tuple(w_z.shape)}")
    add = None
    if group is not None:
        processes = group if isinstance(group, Processes) else Processes(group)
        options: dict[str, Any] = {"scale": scale, "heads": heads}
        options["implementation"] = implementation
        shared = share_keys(
            processes, theta, phi, g, mask, w_f, causal_frames, pairwise=pairwise, **options
        )
        if plan.implementation != "linear":
            theta, phi, w_f = _reduce_to_scores(theta, phi, mask, w_f, heads)
            own = phi.shape[1] // (causal_frames or 1)
            phi, g, mask = shared.gather(phi, g, mask)
            options |= {"mask": mask, "w_f": w_f, "w_z": w_z, "memory_budget": memory_budget}
            if causal_frames is None:
                return non_local(theta, phi, g, pairwise, **options)
            return of_last_frames(theta, phi, g, pairwise, causal_frames, own, **options)
        add = shared.add(mask is not None)
    with without_autocast(theta.device.type):
        theta, phi, values, w_f = _to(plan.dtype, theta, phi, g, w_f)
        if plan.implementation == "linear":
            frames = 1 if add is not None and causal_frames is None else causal_frames
            keys = dot_product.summaries(phi, values, mask, heads=heads, frames=frames, add=add)
            y = dot_product.from_summaries(theta, keys, causal_frames, w_z=w_z, like=g)
        else:
            theta, phi, mask, w_f = split_operands(theta, phi, mask, w_f, heads)
            values = split_heads(values, heads)
            y = _compute(plan, theta, phi, values, pairwise, scale, mask, w_f, causal_frames)
            y = join_heads(y, heads)
            y = y if w_z is None else dot_product.project(y, w_z, like=g)
    return y if y.dtype == g.dtype else y.to(g.dtype)


def of_last_frames(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    pairwise: Pairwise,
    frames: int,
    own: int,
    *,
    window: int | None = None,
    mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Compute a frame-causal operation for the queries of the last frames, and the keys of all.

    Args:
        theta, phi, g, pairwise, mask, options: as in `non_local`.
        frames: number of frames that have queries.
        own: number of keys of a frame.
        window: number of frames whose keys a query sees, its own and those before; None is all.
    """
    rows = []
    for t, queries in enumerate(theta.unflatten(1, (frames, -1)).unbind(1), start=1):
        end = phi.shape[1] - (frames - t) * own
        seen = slice(0 if window is None else max(end - window * own, 0), end)
        real = None if mask is None else mask[:, seen]
        rows.append(non_local(queries, phi[:, seen], g[:, seen], pairwise, mask=real, **options))
    return rows[0] if frames == 1 else torch.cat(rows, dim=1)


def _reduce_to_scores(
    theta: Tensor, phi: Tensor, mask: Tensor | None, w_f: Tensor | None, heads: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Reduce θ and φ of a concatenation to a number per head, so that less is sent."""
    if w_f is None or theta.shape[2] == heads:
        return theta, phi, w_f
    with without_autocast(theta.device.type):
        theta, phi, w_f = _to(wide(common_dtype(theta, phi)), theta, phi, w_f)
        if mask is not None:  # NaN in the padding must not reach a gradient
            phi = phi.masked_fill(~mask.unsqueeze(2), 0)
        theta, phi = (
            (x * w).unflatten(2, (heads, -1)).sum(dim=3)
            for x, w in zip((theta, phi), w_f.chunk(2), strict=True)
        )
        return theta, phi, torch.ones_like(w_f[: 2 * heads])


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
    check_arguments(theta, phi, pairwise, scale, mask, w_f, heads, causal_frames)
    batch, n, d = theta.shape
    m = phi.shape[1]
    if g.ndim != 3 or g.shape[:2] != (batch, m):
        raise ValueError(
            f"g must be (B, M, c) with the B and M of phi, ({batch}, {m}); got {tuple(g.shape)}"
        )
    c = g.shape[2]
    check_divides("heads", heads, {"d": d, "c": c})
    tensors = [t for t in (theta, phi, g, w_f) if t is not None]
    return choose(
        pairwise,
        (batch, n, m, d, c),
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
    check_arguments(theta, phi, pairwise, scale, mask, w_f, heads, causal_frames)
    if queries is not None:
        queries = queries_of_samples(queries, theta)
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
        theta, phi, mask, w_f = split_operands(theta, phi, mask, w_f, heads)
        options = {"scale": scale, "mask": mask, "w_f": w_f, "seen": visible}
        rows = reference.affinity(theta, phi, pairwise, **options)
    return rows if heads == 1 else rows.unflatten(0, (-1, heads))


def _to(dtype: torch.dtype, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Convert tensors to a dtype; None stays None."""
    same = [t if t is None or t.dtype == dtype else t.to(dtype) for t in tensors]
    return tuple(same)  # ty: ignore
