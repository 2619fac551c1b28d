"""What a network costs: parameters and multiply-adds, counted without computing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nonlocalnet.blocks.norm import FrozenNorm
from nonlocalnet.data.sampling import ClipSpec
from nonlocalnet.models.registry import create_model


@dataclass(frozen=True)
class Cost:
    """Weights of convolutions and fc (no biases, no norms), and multiply-adds of one clip."""

    parameters: int
    multiply_adds: int


def cost(
    name: str, *, clip: str = "8x8", crop: int = 224, num_classes: int = 400, **options
) -> Cost:
    """Count a network of the table.

    Multiply-adds are those of convolutions, fc and matrix products, for one clip of crop x crop
    pixels. Source: the counting of the paper's table 2e.

    >>> cost("c2d_r50").parameters
    24274112
    """
    with torch.device("meta"):
        model = create_model(name, clip=clip, crop=crop, num_classes=num_classes, **options)
        x = torch.empty(1, 3, ClipSpec.parse(clip).frames, crop, crop)
    norms = (nn.modules.batchnorm._NormBase, FrozenNorm)
    parameters = sum(
        parameter.numel()
        for module in model.modules()
        if not isinstance(module, norms)
        for key, parameter in module.named_parameters(recurse=False)
        if key != "bias"
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(x)
    return Cost(parameters, counter.get_total_flops() // 2)
