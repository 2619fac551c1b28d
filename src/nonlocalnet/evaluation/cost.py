"""What a network costs: parameters and multiply-adds, counted without computing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nonlocalnet.blocks.norm import FrozenNorm
from nonlocalnet.clips import ClipSpec
from nonlocalnet.detection.networks import DETECTORS
from nonlocalnet.networks.registry import Network, create_model

IMAGE = (800, 1344)  # COCO's 800 x 1333, padded to a multiple of 32 as detectors do
PROPOSALS, OBJECTS = 1000, 100  # that torchvision's detectors test in an image at most


@dataclass(frozen=True)
class Cost:
    """Weights of convolutions and fc (no biases, no norms), and multiply-adds of one input."""

    parameters: int
    multiply_adds: int


def cost(
    name: str, *, clip: str = "8x8", crop: int = 224, num_classes: int | None = None, **options
) -> Cost:
    """Count a network of the table.

    Multiply-adds are those of convolutions, fc and matrix products, for one clip of crop x crop
    pixels; of a detector for one image of 800 x 1344 with 1000 proposals and 100 objects. Source:
    the counting of the paper's table 2e.

    >>> cost("c2d_r50").parameters
    24274112
    """
    detector = name in DETECTORS
    given: dict[str, Any] = {} if detector else {"clip": clip, "crop": crop}
    with torch.device("meta"):
        model = create_model(name, num_classes=num_classes, **given, **options).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            if detector:
                _detect(model)
            else:
                model(torch.empty(1, 3, ClipSpec.parse(clip).frames, crop, crop))
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, FrozenNorm)
    parameters = sum(
        parameter.numel()
        for module in model.modules()
        if not isinstance(module, norms)
        for key, parameter in module.named_parameters(recurse=False)
        if key != "bias"
    )
    return Cost(parameters, counter.get_total_flops() // 2)


def _detect(model: Network) -> None:
    """Compute all of a detector but what chooses its regions, which has no weights."""
    features = model.backbone(torch.empty(1, 3, *IMAGE))
    model.rpn.head(list(features.values()))
    heads, channels = model.roi_heads, model.backbone.out_channels
    heads.box_predictor(heads.box_head(torch.empty(PROPOSALS, channels, 7, 7)))
    for kind in ("mask", "keypoint"):
        if getattr(heads, f"{kind}_head") is not None:
            regions = torch.empty(OBJECTS, channels, 14, 14)
            getattr(heads, f"{kind}_predictor")(getattr(heads, f"{kind}_head")(regions))
