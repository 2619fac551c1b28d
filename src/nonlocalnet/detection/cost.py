"""Run a detector once, to count its multiply-adds."""

from __future__ import annotations

import torch

from nonlocalnet.networks.registry import Network

IMAGE = (800, 1344)  # COCO's 800 x 1333, padded to a multiple of 32 as detectors do
PROPOSALS, OBJECTS = 1000, 100  # the most that torchvision's detectors test in an image


def compute_image(model: Network) -> None:
    """Run a detector on one image, except for the choice of regions, which has no weights."""
    features = model.backbone(torch.empty(1, 3, *IMAGE))
    model.rpn.head(list(features.values()))
    heads, channels = model.roi_heads, model.backbone.out_channels
    heads.box_predictor(heads.box_head(torch.empty(PROPOSALS, channels, 7, 7)))
    for kind in ("mask", "keypoint"):
        if getattr(heads, f"{kind}_head") is not None:
            regions = torch.empty(OBJECTS, channels, 14, 14)
            getattr(heads, f"{kind}_predictor")(getattr(heads, f"{kind}_head")(regions))
