"""What a weights file says about itself, and names of classes."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nonlocalnet.clips import MEAN, STD
from nonlocalnet.errors import printable, shown


@dataclass
class WeightsInfo:
    """What a weights file says about itself.

    Attributes:
        config: arguments of `create_model`.
        classes: names in label order; empty if none were given.
        multi_label: whether a video has many labels (sigmoid) or one (softmax).
        short_side: pixels; test frames are scaled to it, and the test crop is that wide.
        mean, std: of each color (red, green, blue; values from 0 to 1), to normalize the input.
        facts: anything else: where it comes from, iterations, scores reported and measured.
    """

    config: dict[str, Any]
    classes: list[str] = field(default_factory=list)
    multi_label: bool = False
    short_side: int = 256
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mean, self.std = tuple(self.mean), tuple(self.std)
        for name in ("mean", "std"):
            colors = getattr(self, name)
            if len(colors) != 3 or not all(map(_is_number, colors)):
                raise TypeError(f"{name} must be three numbers; got {shown(colors)}")
        if not all(color > 0 for color in self.std):
            raise TypeError(f"std must be positive; got {self.std}")
        if not isinstance(self.classes, list) or not all(type(c) is str for c in self.classes):
            raise TypeError(f"classes must be a list of names; got {shown(self.classes)}")
        if type(self.multi_label) is not bool:
            raise TypeError(f"multi_label must be true or false; got {shown(self.multi_label)}")
        if type(self.short_side) is not int or self.short_side < 1:
            raise TypeError(f"short_side must be a number of pixels; got {shown(self.short_side)}")
        if not isinstance(self.config, dict) or not isinstance(self.facts, dict):
            raise TypeError("config and facts must be tables")

    def class_name(self, label: int) -> str:
        """Name a label, fit to be printed; its number where no names are known."""
        return printable(self.classes[label], 200) if label < len(self.classes) else str(label)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value)


def kinetics_classes() -> list[str]:
    """Name the classes of Kinetics-400, in the alphabetical order that all releases have."""
    return (Path(__file__).parent / "kinetics400.txt").read_text().splitlines()


def coco_classes(num_classes: int) -> list[str]:
    """Name the labels of COCO's detectors, of 91 or 2 classes; no names for other numbers.

    Label 0 is "__background__", labels that COCO does not use are "N/A".
    """
    from torchvision.models.detection import (
        KeypointRCNN_ResNet50_FPN_Weights,
        MaskRCNN_ResNet50_FPN_Weights,
    )

    if num_classes == 91:
        return list(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    if num_classes == 2:
        return ["__background__", *KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]]
    return []


def read_classes(path: str | os.PathLike) -> list[str]:
    """Read class names, one a line, in label order.

    Raises:
        ValueError: the file is empty.
    """
    names = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path} has no class names; write one a line, in label order")
    return names
