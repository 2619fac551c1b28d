"""Attention of autoencoders for video: each frame alone, or frames and those before them.

Single head; out = x + proj(y). Wan, QwenImage, Cosmos, VidTok; HunyuanVideo-1.5 (frame-causal).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from nonlocalnet.acceleration.attend import Attend
from nonlocalnet.acceleration.families.attn_block import CONV
from nonlocalnet.acceleration.families.base import Arguments, Family, map_for, noise, weight_of
from nonlocalnet.options import Extent


def frames_in_batch(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute attention with the frames in the batch and one projection, [q | k | v]."""
    frames = x.transpose(1, 2).flatten(0, 1)  # (B T, C, H, W)
    qkv = module.to_qkv(module.norm(frames)).unflatten(0, (x.shape[0], x.shape[2]))
    theta, phi, g = qkv.transpose(1, 2).chunk(3, dim=1)  # (B, C, T, H, W)
    y = attend(theta, phi, g, scale=theta.shape[1] ** -0.5, extent="space")
    y = module.proj(y.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2) + x


def maps(
    attend: Attend, module: Any, x: Tensor, *, extent: Extent, q: str, k: str, v: str, out: str
) -> Tensor:
    """Compute attention on maps (B, C, T, H, W) from three projections."""
    z = module.norm(x)
    theta, phi, g = (getattr(module, name)(z) for name in (q, k, v))
    y = attend(theta, phi, g, scale=theta.shape[1] ** -0.5, extent=extent)
    return x + getattr(module, out)(y)


def cosmos(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute attention as diffusers' Cosmos does with its spatial processor."""
    z, heads = module.norm(x), module.num_attention_heads
    theta, phi, g = module.to_q(z), module.to_k(z), module.to_v(z)
    scale = (theta.shape[1] // heads) ** -0.5
    y = attend(theta, phi, g, scale=scale, heads=heads, extent="space")
    return module.to_out[1](module.to_out[0](y)) + x


def _is_spatial(module: Any, *_: Tensor) -> bool:
    return type(module.processor).__name__ == "CosmosSpatialAttentionProcessor2_0"


def _clip(part: str) -> Any:
    def example(module: Any) -> Arguments:
        return (noise(2, weight_of(getattr(module, part)).shape[1], 3, 3, 4),)

    return example


TO = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "proj_out"}

FAMILIES = (
    Family(
        name="Wan, each frame alone",
        classes=(
            "AttentionBlock",
            "WanAttentionBlock",
            "QwenImageAttentionBlock",
            "QwenImage21AttentionBlock",
        ),
        parts=("norm", "to_qkv", "proj"),
        compute=frames_in_batch,
        example=_clip("to_qkv"),
    ),
    Family(
        name="Cosmos and VidTok, each frame alone",
        classes=("CausalAttnBlock", "VidTokAttnBlock"),
        parts=("norm", "q", "k", "v", "proj_out"),
        compute=partial(maps, extent="space", **CONV),
        example=map_for("q", dims=3),
    ),
    Family(
        name="diffusers Cosmos, each frame alone",
        classes=("CosmosCausalAttention",),
        parts=("norm", "to_q", "to_k", "to_v", "to_out", "processor", "num_attention_heads"),
        compute=cosmos,
        example=map_for("to_q", dims=3),
        fits=_is_spatial,
        when=_is_spatial,
    ),
    Family(
        name="HunyuanVideo-1.5, frame-causal",
        classes=("AttnBlock", "HunyuanVideo15AttnBlock"),
        parts=("norm", "to_q", "to_k", "to_v", "proj_out"),
        compute=partial(maps, extent="causal", **TO),
        example=lambda module: (noise(1, weight_of(module.to_q).shape[1], 3, 2, 3),),
    ),
    Family(
        name="HunyuanImage refiner",
        classes=("HunyuanImageRefinerAttnBlock",),
        parts=("norm", "to_q", "to_k", "to_v", "proj_out"),
        compute=partial(maps, extent="spacetime", **TO),
        example=map_for("to_q", dims=3),
    ),
    Family(
        name="HunyuanVideo-1.5 (Tencent), frame-causal",
        classes=("AttnBlock",),
        parts=("norm", "q", "k", "v", "proj_out"),
        compute=partial(maps, extent="causal", **CONV),
        example=map_for("q", dims=3),
        fits=lambda module: weight_of(module.q).ndim == 5,
    ),
)
