"""Mask and Keypoint R-CNNs of torchvision, and image classifiers as their backbones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nonlocalnet.checkpoints.converted import Converted
from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.formats import torchvision

ORIGIN = "torchvision R-CNN"
BACKBONE = "backbone.body."


def matches(names: Iterable[str]) -> bool:
    """Tell whether keys are of this layout."""
    return any(name.startswith(BACKBONE) for name in names)


def convert(checkpoint: Checkpoint) -> Converted:
    """Take a detector's parameters, whose names ours keep, and tell what it is.

    Raises:
        ValueError: neither a Mask nor a Keypoint R-CNN, or one of torchvision's second version.
    """
    result = Converted(ORIGIN)
    for name, entry in checkpoint.entries.items():
        result.tensors[name], result.names[name] = entry, name
    result.unknown += checkpoint.others
    result.detector = _infer(result.shapes())
    result.mean, result.std = torchvision.MEAN, torchvision.STD
    result.assumed["norm_eps"] = (0.0, "as torchvision's COCO_V1 weights need")
    return result


def _infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Tell kind, classes, and the backbone's depths and groups."""
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


def as_backbone(classifier: Converted) -> Converted:
    """Put an image classifier, converted to our names, in the names of a detector's backbone."""
    result = Converted(classifier.origin, flat=True, cleaned=classifier.cleaned)
    result.mean, result.std = classifier.mean, classifier.std
    result.ignored, result.unknown = dict(classifier.ignored), list(classifier.unknown)
    result.notes = list(classifier.notes)
    for name, entry in classifier.tensors.items():
        theirs = classifier.names.get(name, name)
        if name.startswith("fc."):
            result.ignored[theirs] = "the classifier of images"
        elif (own := torchvision.RULES.to_theirs(name)) is None:
            result.unknown.append(theirs)
        else:
            result.tensors[BACKBONE + own], result.names[BACKBONE + own] = entry, theirs
    return result
