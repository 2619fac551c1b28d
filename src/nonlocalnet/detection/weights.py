"""Weights files of detectors: the network that a file is for, and what its description may say.

`checkpoints.resolve` has functions of the same names for video networks.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchvision.models.detection import (
    KeypointRCNN_ResNet50_FPN_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
)
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from nonlocalnet.checkpoints.formats import torchvision
from nonlocalnet.checkpoints.formats.native import FIELDS, MAX, Fits
from nonlocalnet.checkpoints.formats.torchvision_rcnn import BACKBONE
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.translate import Translated
from nonlocalnet.checkpoints.zoo import RELEASE_OF
from nonlocalnet.detection import networks, rcnn
from nonlocalnet.detection.rows import BACKBONES, ROWS
from nonlocalnet.networks.registry import find_row


def describe(
    path: Path,
    translated: Translated,
    *,
    clip: str | None,
    given: Mapping[str, Any],
    **options: Any,
) -> WeightsInfo:
    """Find the row of the table that a detector of torchvision is.

    Args:
        path: the file.
        translated: its content; `detector` has kind, num_classes, depths and groups.
        clip: must be None.
        given: what was told of the input.
        options: arguments of the network that were told.

    Raises:
        ValueError: no row has this network; a clip.
    """
    found = dict(translated.detector or {})
    wanted = {"kind": found["kind"], "backbone_blocks": 0, "head_blocks": 0}
    rows = []
    for name, row in ROWS.items():
        backbone = BACKBONES[row.fields["backbone"]]
        if (backbone.depths, backbone.groups) == (found["depths"], found["groups"]) and (
            wanted.items() <= row.fields.items()
        ):
            rows.append(name)
    if len(rows) != 1:
        raise ValueError(
            f"a {found['kind']} R-CNN with {found['depths']} residual blocks in its "
            "backbone is not in the table (nonlocalnet models '*rcnn*')"
        )
    if clip is not None:
        raise ValueError("it is a detector, which has no clip")
    config: dict[str, Any] = {"name": rows[0], "num_classes": found["num_classes"]}
    config |= {name: value for name, (value, _) in translated.assumed.items()} | options
    assumed = {name: why for name, (_, why) in translated.assumed.items() if name not in options}
    release = RELEASE_OF.get(path.name)
    if release is not None and release.model == rows[0]:
        assumed = {}  # the release says it: COCO_V1
    return WeightsInfo(
        config=config,
        classes=find_classes(path, translated),
        short_side=config.get("min_size", 800),
        mean=translated.mean,
        std=translated.std,
        facts={"origin": translated.origin, "file": path.name, "assumed": assumed},
    )


def find_classes(path: Path, translated: Translated) -> list[str]:
    """Name the classes of a foreign file as it or its release says.

    Their number alone does not tell: other data sets have 91 classes too.
    """
    count = (translated.detector or {}).get("num_classes")
    if translated.classes and len(translated.classes) == count:
        return translated.classes
    release = RELEASE_OF.get(path.name)
    of_coco = release is not None and "coco" in release.dataset.lower()
    return coco_classes(int(count or 0)) if of_coco else []


def coco_classes(num_classes: int) -> list[str]:
    """Name the labels of COCO's detectors, of 91 or 2 classes; no names for other numbers.

    Label 0 is "__background__"; labels that COCO does not use are "N/A".
    """
    if num_classes == 91:
        return list(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    if num_classes == 2:
        return ["__background__", *KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]]
    return []


def find_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by which a file and a network are compared: none, shapes show all."""
    return {}


def fields(name: str) -> dict[str, tuple[str, Fits]]:
    """Say what each field of a detector's description may be, by the types of the defaults."""
    found: dict[str, tuple[str, Fits]] = {}
    kind = find_row(name).fields["kind"]
    for function in (GeneralizedRCNNTransform, rcnn.NETWORKS[kind], networks.build):
        for argument, parameter in inspect.signature(function).parameters.items():
            found[argument] = _field(parameter.default)
    for argument in ("image_mean", "image_std"):
        found[argument] = ("None or three numbers", _or_none(_are_colors))
    found["min_size"] = ("a number of pixels, or some", _are_sides)
    found["max_size"] = found["size_divisible"] = FIELDS["crop"]
    found["name"], found["num_classes"] = FIELDS["name"], FIELDS["num_classes"]
    return found


def _field(default: Any) -> tuple[str, Fits]:
    if type(default) is bool:
        return FIELDS["bias"]
    if type(default) is int:
        return FIELDS["stem_padding"]
    if type(default) is float:
        return "a number", _is_number
    if type(default) is str:
        return FIELDS["pairwise"]
    return "None, a number or a word", _or_none(
        lambda value: type(value) in (bool, str) or _is_number(value)
    )


def _or_none(fits: Fits) -> Fits:
    return lambda value: value is None or fits(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MAX and math.isfinite(value)


def _are_colors(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))


def _are_sides(value: Any) -> bool:
    sides = value if isinstance(value, list | tuple) else [value]
    return 0 < len(sides) < 100 and all(type(side) is int and side > 0 for side in sides)


def use_classifier(classifier: Translated) -> Translated:
    """Rename an image classifier's tensors to those of a detector's backbone."""
    result = Translated(classifier.origin, flat=True, part=BACKBONE)
    result.cleaned = classifier.cleaned
    result.mean, result.std = classifier.mean, classifier.std
    result.ignored, result.unknown = dict(classifier.ignored), list(classifier.unknown)
    result.notes = list(classifier.notes)
    for name, tensor in classifier.tensors.items():
        theirs = classifier.names.get(name, name)
        if name.startswith("fc."):
            result.ignored[theirs] = "the classifier of images"
        elif (own := torchvision.RULES.to_theirs(name)) is None:
            result.unknown.append(theirs)
        else:
            result.tensors[BACKBONE + own], result.names[BACKBONE + own] = tensor, theirs
    return result
