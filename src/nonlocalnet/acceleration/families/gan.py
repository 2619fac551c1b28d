"""Attention with a learned gate and without scale: out = γ o(y) + x.

SAGAN, DANet's position attention, BigGAN (both layers), fastai.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from nonlocalnet.acceleration.attend import Attend
from nonlocalnet.acceleration.families.base import Family, map_for
from nonlocalnet.acceleration.later import weights_later


def position_attention(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute γ y + x."""
    y = attend(module.query_conv(x), module.key_conv(x), module.value_conv(x))
    return module.gamma * y + x


def with_weights(attend: Attend, module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute γ y + x, and the weights when they are used."""
    theta, phi = module.query_conv(x), module.key_conv(x)
    y = attend(theta, phi, module.value_conv(x))
    return module.gamma * y + x, weights_later(theta, phi)


def biggan(attend: Attend, module: Any, x: Tensor, *, out: str) -> Tensor:
    """Compute γ o(y) + x, with φ and g pooled after they are projected."""
    theta = module.theta(x)
    phi, g = F.max_pool2d(module.phi(x), 2), F.max_pool2d(module.g(x), 2)
    return module.gamma * getattr(module, out)(attend(theta, phi, g)) + x


def fastai(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute γ y + x on flat maps; its keys are the queries of the operation."""
    flat = x.flatten(2)
    phi, theta, g = module.query(flat), module.key(flat), module.value(flat)
    return (module.gamma * attend(theta, phi, g) + flat).view_as(x).contiguous()


FAMILIES = (
    Family(
        name="DANet position attention",
        classes=("PAM_Module", "PAM", "PositionAttentionModule", "SelfAttention"),
        parts=("query_conv", "key_conv", "value_conv", "gamma"),
        compute=position_attention,
        example=map_for("value_conv", dims=2),
        bypassed=("softmax",),
    ),
    Family(
        name="SAGAN",
        classes=("Self_Attn", "SelfAttention", "Self_Attention"),
        parts=("query_conv", "key_conv", "value_conv", "gamma"),
        compute=with_weights,
        example=map_for("value_conv", dims=2),
        bypassed=("softmax",),
    ),
    *(
        Family(
            name=name,
            classes=("Attention", "SelfAttention"),
            parts=("theta", "phi", "g", out, "gamma"),
            compute=partial(biggan, out=out),
            example=map_for("theta", dims=2),
        )
        for name, out in (("BigGAN", "o"), ("BigGAN (TF Hub)", "o_conv"))
    ),
    Family(
        name="fastai",
        classes=("SelfAttention",),
        parts=("query", "key", "value", "gamma"),
        compute=fastai,
        example=map_for("value", dims=2),
    ),
)
