"""Attention of diffusion networks with merged projections, whose channels come in three layouts.

"3hc": [q | k | v], heads inside; "h3c": for each head its q, k, v; "hc3": for each head and channel
the triple. Nothing but the code tells them apart, so the check decides. guided-diffusion, SR3, EDM,
lucidrains.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnet.acceleration.attend import Attend
from nonlocalnet.acceleration.families.base import Arguments, Family, map_for, noise, weight_of

Layout = Literal["3hc", "h3c", "hc3"]
ROUNDS = 1e-5  # tolerance of blocks with a softmax in float32


def split(qkv: Tensor, heads: int, layout: Layout) -> tuple[Tensor, ...]:
    """Split (B, 3 · heads · d, ...) into q, k and v (B, heads · d, ...)."""
    if layout == "3hc":
        return qkv.chunk(3, dim=1)
    axes = (heads, 3, -1) if layout == "h3c" else (heads, -1, 3)
    parts = qkv.unflatten(1, axes).unbind(2 if layout == "h3c" else 3)
    return tuple(part.flatten(1, 2) for part in parts)


def guided(attend: Attend, module: Any, qkv: Tensor, *, layout: Layout) -> Tensor:
    """Compute guided-diffusion's QKVAttention, (B, 3 C, N) -> (B, C, N), the core of its block."""
    heads = module.n_heads
    theta, phi, g = split(qkv, heads, layout)
    return attend(theta, phi, g, scale=(theta.shape[1] // heads) ** -0.5, heads=heads)


def sr3(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute SR3's attention, scaled by all channels, not by those of a head."""
    theta, phi, g = split(module.qkv(module.norm(x)), module.n_head, "h3c")
    y = attend(theta, phi, g, scale=x.shape[1] ** -0.5, heads=module.n_head)
    return module.out(y) + x


def edm(attend: Attend, module: Any, x: Tensor, emb: Tensor) -> Tensor:
    """Compute EDM's residual block, with attention at its end."""
    h = module.conv0(F.silu(module.norm0(x)))
    shift = module.affine(emb)[:, :, None, None].to(h.dtype)
    if module.adaptive_scale:
        factor, shift = shift.chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, module.norm1(h), factor + 1))
    else:
        h = F.silu(module.norm1(h.add_(shift)))
    h = module.conv1(F.dropout(h, module.dropout, module.training))
    h = (h + (x if module.skip is None else module.skip(x))) * module.skip_scale
    heads = module.num_heads
    theta, phi, g = split(module.qkv(module.norm2(h)), heads, "hc3")
    y = attend(theta, phi, g, scale=(theta.shape[1] // heads) ** -0.5, heads=heads)
    return (module.proj(y) + h) * module.skip_scale


def lucidrains(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute lucidrains' attention, whose first keys and values are parameters."""
    theta, phi, g = module.to_qkv(module.norm(x)).chunk(3, dim=1)
    keys, values = module.mem_kv.transpose(2, 3).flatten(1, 2)  # (heads · d, 4) of each
    phi, g = (
        torch.cat([m.expand(x.shape[0], -1, -1), t.flatten(2)], dim=2)
        for m, t in ((keys, phi), (values, g))
    )
    scale = (theta.shape[1] // module.heads) ** -0.5
    return module.to_out(attend(theta, phi, g, scale=scale, heads=module.heads))


def _no_dropout(module: Any, *_: Tensor) -> bool:
    """Tell whether no weights are dropped, which cannot be done without the matrix."""
    return not module.training or not getattr(module.attend, "dropout", 0)


def _qkv(module: Any) -> Arguments:
    return (noise(2, 3 * 4 * module.n_heads, 20),)


def _map_and_embedding(module: Any) -> Arguments:
    channels = weight_of(module.conv0).shape[1]
    return noise(2, channels, 4, 6), noise(2, weight_of(module.affine).shape[1], seed=1)


FAMILIES = (
    *(
        Family(
            name=f"guided-diffusion, {layout}",
            classes=("QKVAttention", "QKVAttentionLegacy"),
            parts=("n_heads",),
            compute=partial(guided, layout=layout),
            example=_qkv,
            tolerance=ROUNDS,
        )
        for layout in ("h3c", "3hc")
    ),
    Family(
        name="SR3",
        classes=("SelfAttention",),
        parts=("norm", "qkv", "out", "n_head"),
        compute=sr3,
        example=map_for("qkv", dims=2),
    ),
    Family(
        name="EDM",
        classes=("UNetBlock",),
        parts=("norm0", "conv0", "affine", "norm1", "conv1", "norm2", "qkv", "proj", "num_heads"),
        compute=edm,
        example=_map_and_embedding,
        arguments=2,
        tolerance=ROUNDS,
        fits=lambda module: module.num_heads > 0,
    ),
    Family(
        name="lucidrains",
        classes=("Attention",),
        parts=("norm", "attend", "mem_kv", "to_qkv", "to_out", "heads"),
        compute=lucidrains,
        example=map_for("to_qkv", dims=2),
        when=_no_dropout,
        bypassed=("attend",),
    ),
)
