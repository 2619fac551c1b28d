"""MONAI's SABlock, the attention of its SpatialAttentionBlock: on rows (B, N, C)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nonlocalnet.acceleration.attend import Attend
from nonlocalnet.acceleration.families.base import Arguments, Family, noise, weight_of


def sa_block(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute multi-head attention of rows and its output projection."""
    if module.use_combined_linear:
        theta, phi, g = module.qkv(x).mT.chunk(3, dim=1)
    else:
        theta, phi, g = module.to_q(x).mT, module.to_k(x).mT, module.to_v(x).mT
    if module.attention_dtype is not None:
        theta, phi = theta.to(module.attention_dtype), phi.to(module.attention_dtype)
    y = attend(theta, phi, g, scale=module.scale, heads=module.num_heads).mT
    return module.drop_output(module.out_proj(y) if module.include_fc else y)


def _plain(module: Any, *_: Tensor) -> bool:
    """Tell whether the weights are neither kept, nor masked, nor dropped."""
    dropped = module.dropout_rate > 0 and (module.training or module.use_flash_attention)
    positions = getattr(module, "rel_positional_embedding", None)
    return not (module.save_attn or module.causal or dropped) and positions is None


def _rows(module: Any) -> Arguments:
    part = module.qkv if module.use_combined_linear else module.to_q
    return (noise(2, 20, weight_of(part).shape[1]),)


FAMILIES = (
    Family(
        name="MONAI",
        classes=("SABlock",),
        parts=("out_proj", "drop_output", "num_heads", "scale"),
        compute=sa_block,
        example=_rows,
        fits=lambda module: not (module.save_attn or module.causal),
        when=_plain,
        bypassed=("input_rearrange", "out_rearrange", "drop_weights"),
        positions=lambda x: x.shape[1],
    ),
)
