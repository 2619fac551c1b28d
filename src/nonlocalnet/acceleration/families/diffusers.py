"""diffusers' `Attention` in autoencoders and unconditional U-Nets, through its processor.

out = (to_out(y) + x) / rescale_output_factor, on maps or rows. HunyuanVideo's middle block calls
it frame-causally: there the mask, an N x M matrix of its own, is replaced, too.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nonlocalnet.acceleration.attend import Attend, rows_as_map
from nonlocalnet.acceleration.families.base import (
    Arguments,
    Family,
    FrameCausal,
    noise,
    weight_of,
)

# SDPA and the forms that compute the same with a matrix or slices of it
PROCESSORS = ("AttnProcessor2_0", "AttnProcessor", "SlicedAttnProcessor", "XFormersAttnProcessor")
UNKNOWN = ("norm_q", "norm_k", "norm_cross", "added_kv_proj_dim", "to_qkv", "ip_adapter")


def processed(
    attend: Attend, attn: Any, x: Tensor, temb: Tensor | None = None, frames: Any = None
) -> Tensor:
    """Compute what the default processors compute."""
    rows = x if attn.spatial_norm is None else attn.spatial_norm(x, temb)
    if x.ndim == 4:
        rows = rows.flatten(2).mT  # (B, N, C)
    if attn.group_norm is not None:
        rows = attn.group_norm(rows.mT).mT
    size = x.shape[2:] if x.ndim == 4 else x.shape[1:2] if frames is None else frames.size
    theta, phi, g = (rows_as_map(part(rows), size) for part in (attn.to_q, attn.to_k, attn.to_v))
    y = attend(
        theta,
        phi,
        g,
        scale=_scale(attn, theta.shape[1] // attn.heads),
        heads=attn.heads,
        extent="spacetime" if frames is None else "causal",
    )
    y = attn.to_out[1](attn.to_out[0](y.flatten(2).mT))
    if x.ndim == 4:
        y = y.mT.reshape(x.shape)
    return (y + x if attn.residual_connection else y) / attn.rescale_output_factor


def middle_block(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute HunyuanVideo's middle block without its mask."""
    x = module.resnets[0](x)
    for attn, resnet in zip(module.attentions, module.resnets[1:], strict=True):
        if attn is not None:
            size = x.shape[2:]
            rows = x.permute(0, 2, 3, 4, 1).flatten(1, 3)
            x = rows_as_map(attn(rows, attention_mask=FrameCausal(size)), size)
        x = resnet(x)
    return x


def _scale(attn: Any, width: int) -> float:
    """Return the factor of the exponent: torch's attention takes no notice of attn.scale."""
    honors = _processor(attn) in ("AttnProcessor", "SlicedAttnProcessor", "XFormersAttnProcessor")
    return attn.scale if honors else width**-0.5


def _processor(attn: Any) -> str:
    kind = type(attn.processor)
    return vars(kind).get("_accelerated_from", kind).__name__


def _plain(attn: Any, *_: Tensor) -> bool:
    normed = attn.group_norm is not None or attn.spatial_norm is not None
    settings = all(getattr(attn, name, None) is None for name in UNKNOWN)
    return normed and settings and _processor(attn) in PROCESSORS


def _checkpointing(module: Any, *_: Tensor) -> bool:
    return bool(getattr(module, "gradient_checkpointing", False))


def _map(attn: Any) -> Arguments:
    x = noise(2, weight_of(attn.to_q).shape[1], 4, 6)
    if attn.spatial_norm is None:
        return (x,)
    return x, noise(2, weight_of(attn.spatial_norm.conv_y).shape[1], 2, 3, seed=1)


def _clip(module: Any) -> Arguments:
    return (noise(1, weight_of(module.resnets[0]).shape[1], 3, 2, 3),)


FAMILIES = (
    Family(
        name="diffusers Attention",
        classes=("Attention",),
        parts=("to_q", "to_k", "to_v", "to_out", "processor", "heads", "rescale_output_factor"),
        compute=processed,
        example=_map,
        fits=_plain,
        when=_plain,
        keywords=("temb",),
        arguments=2,
        by_processor=True,
        positions=lambda x: x[0, 0].numel() if x.ndim == 4 else x.shape[1],
        tolerance=1e-5,  # AttnProcessor's softmax may be in float32
    ),
    Family(
        name="HunyuanVideo, frame-causal",
        classes=("HunyuanVideoMidBlock3D", "UNetMidBlockCausal3D"),
        parts=("attentions", "resnets"),
        compute=middle_block,
        example=_clip,
        when=lambda module, *_: not _checkpointing(module) and _all_accelerated(module),
        tolerance=1e-5,
    ),
)


def _all_accelerated(module: Any) -> bool:
    """Tell whether every attention has a processor that understands `FrameCausal`."""
    return all(
        attn is None or hasattr(type(attn.processor), "_accelerated_by")
        for attn in module.attentions
    )
