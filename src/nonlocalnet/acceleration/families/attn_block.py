"""Single-head attention blocks of autoencoders and diffusion networks for images.

z = norm(x); y = softmax(d^-1/2 · q(z)ᵀ k(z)) v(z); out = x + proj(y), with separate or merged
projections: latent-diffusion, taming-transformers, FLUX, VAR, HunyuanImage, LTX-2, score_sde.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from nonlocalnet.acceleration.attend import Attend
from nonlocalnet.acceleration.families.base import Family, map_for


def separate(
    attend: Attend, module: Any, x: Tensor, *, norm: str | None, q: str, k: str, v: str, out: str
) -> Tensor:
    """Compute x + out(attention of norm(x)) from three projections."""
    z = x if norm is None else getattr(module, norm)(x)
    theta, phi, g = (getattr(module, name)(z) for name in (q, k, v))
    return x + getattr(module, out)(attend(theta, phi, g, scale=theta.shape[1] ** -0.5))


def merged(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute x + proj_out(attention of norm(x)) from one projection, [q | k | v]."""
    theta, phi, g = module.qkv(module.norm(x)).chunk(3, dim=1)
    return x + module.proj_out(attend(theta, phi, g, scale=theta.shape[1] ** -0.5))


def score_sde(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute the same from projections by NIN; with skip_rescale, divide the sum by √2."""
    names = {"q": "NIN_0", "k": "NIN_1", "v": "NIN_2", "out": "NIN_3"}
    y = separate(attend, module, x, norm="GroupNorm_0", **names)
    return y / 2**0.5 if getattr(module, "skip_rescale", False) else y


CONV = {"q": "q", "k": "k", "v": "v", "out": "proj_out"}
TO = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "proj"}

FAMILIES = (
    Family(
        name="AttnBlock",
        classes=("AttnBlock", "SpatialSelfAttention", "LTX2AudioAttnBlock"),
        parts=("norm", "q", "k", "v", "proj_out"),
        compute=partial(separate, norm="norm", **CONV),
        example=map_for("q", dims=2),
    ),
    Family(
        name="AttnBlock without norm",
        classes=("AttnBlock", "LTX2AudioAttnBlock"),
        parts=("q", "k", "v", "proj_out"),
        compute=partial(separate, norm=None, **CONV),
        example=map_for("q", dims=2),
        fits=lambda module: getattr(module, "norm", None) is None,
    ),
    Family(
        name="AttnBlock, merged qkv",
        classes=("AttnBlock",),
        parts=("norm", "qkv", "proj_out"),
        compute=merged,
        example=map_for("qkv", dims=2),
    ),
    Family(
        name="HunyuanImage",
        classes=("HunyuanImageAttentionBlock",),
        parts=("norm", "to_q", "to_k", "to_v", "proj"),
        compute=partial(separate, norm="norm", **TO),
        example=map_for("to_q", dims=2),
    ),
    Family(
        name="score_sde",
        classes=("AttnBlockpp", "AttnBlock"),
        parts=("GroupNorm_0", "NIN_0", "NIN_1", "NIN_2", "NIN_3"),
        compute=score_sde,
        example=map_for("NIN_0", dims=2, axis=0),
    ),
)
