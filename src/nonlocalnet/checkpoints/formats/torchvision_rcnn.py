"""Mask and Keypoint R-CNNs of torchvision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.formats import torchvision
from nonlocalnet.checkpoints.translate import Translated

ORIGIN = "torchvision R-CNN"
BACKBONE = "backbone.body."


def translate(checkpoint: Checkpoint) -> Translated:
    """Translate a detector; its names stay the same.

    Raises:
        ValueError: it is neither a Mask nor a Keypoint R-CNN, or torchvision's second version.
    """
    result = Translated(ORIGIN)
    for name, tensor in checkpoint.tensors.items():
        result.tensors[name], result.names[name] = tensor, name
    result.unknown += checkpoint.others
    result.detector = _infer(result.shapes())
    result.like = f"{result.detector['kind']}_rcnn_r50_fpn"
    result.mean, result.std = torchvision.MEAN, torchvision.STD
    result.assumed["norm_eps"] = (0.0, "as torchvision's COCO_V1 weights need")
    return result


def _infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Infer the kind, the number of classes, and depths and groups of the backbone."""
    kinds = [k for k in ("mask", "keypoint") if any(f"roi_heads.{k}_head." in s for s in shapes)]
    classes = shapes.get("roi_heads.box_predictor.cls_score.weight")
    if len(kinds) != 1 or not classes:
        raise ValueError("it is a detector, but neither a Mask nor a Keypoint R-CNN")
    if any(name.startswith("backbone.fpn.") and name.endswith("running_mean") for name in shapes):
        raise ValueError(
            "it is of torchvision's second version, with norms in pyramid and heads; the paper's "
            "detectors are the first"
        )
    found: list[set[str]] = [set(), set(), set(), set()]
    for name in shapes:
        if match := re.match(r"backbone\.body\.layer([1-4])\.(\d+)\.", name):
            found[int(match[1]) - 1].add(match[2])
    second = shapes.get(f"{BACKBONE}layer1.0.conv2.weight", (1, 1))
    return {
        "kind": kinds[0],
        "num_classes": classes[0],
        "depths": tuple(map(len, found)),
        "groups": second[0] // max(second[1], 1),
    }
