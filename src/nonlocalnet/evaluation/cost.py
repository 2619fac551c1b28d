"""Count the parameters and multiply-adds of a network on meta tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nonlocalnet.blocks.norm import FrozenNorm
from nonlocalnet.clips import ClipSpec
from nonlocalnet.networks.registry import Network, create_model, family_of
from nonlocalnet.runtime.device import meta_device


@dataclass(frozen=True)
class Cost:
    """Weights of convolutions and linear layers (no biases, no norms), and multiply-adds."""

    parameters: int
    multiply_adds: int


def cost(
    name: str, *, clip: str = "8x8", crop: int = 224, num_classes: int | None = None, **options
) -> Cost:
    """Count the parameters and multiply-adds of a network of the table.

    Multiply-adds are those of convolutions, linear layers and matrix products, for one clip of
    crop x crop pixels; for detectors, for one image of 800 x 1344 with 1000 proposals and 100
    objects. The rules are those of the paper's table 2e.

    >>> cost("c2d_r50").parameters
    24274112
    """
    family = family_of(name)
    given: dict[str, Any] = {"clip": clip, "crop": crop} if family.takes == "videos" else {}
    if "defaults" in family.places:  # its networks have clips of their own
        own = family.load("defaults")(name)
        given = {key: own[key] for key in given}
    with meta_device():
        model = create_model(name, num_classes=num_classes, **given, **options).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            family.load("cost")(model, **given)
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, FrozenNorm)
    parameters = sum(
        parameter.numel()
        for module in model.modules()
        if not isinstance(module, norms)
        for key, parameter in module.named_parameters(recurse=False)
        if key != "bias"
    )
    return Cost(parameters, counter.get_total_flops() // 2)


def compute_clip(model: Network, *, clip: str, crop: int) -> None:
    """Run a video network on one clip."""
    model(torch.empty(1, 3, ClipSpec.parse(clip).frames, crop, crop))
