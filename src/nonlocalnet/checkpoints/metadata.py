"""The description in a weights file, and the class names of Kinetics-400."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nonlocalnet.clips import MEAN, STD, Views
from nonlocalnet.errors import printable, shown


@dataclass
class WeightsInfo:
    """The description of a network in its weights file.

    Attributes:
        config: arguments of `create_model`.
        classes: names in label order; empty if unknown.
        multi_label: whether a video may have several labels (sigmoid) or has one (softmax).
        short_side: in pixels; test frames are resized to it, and it is the size of the test crop.
        mean, std: for each color (red, green, blue; values from 0 to 1), to normalize the input.
        views: what it is tested on by default.
        facts: anything else: origin, iterations, reported and measured scores.
    """

    config: dict[str, Any]
    classes: list[str] = field(default_factory=list)
    multi_label: bool = False
    short_side: int = 256
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    views: Views = field(default_factory=Views)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.views, dict):  # from JSON
            self.views = Views(**self.views)
        if not isinstance(self.views, Views):
            raise TypeError(f"views must be a table; got {shown(self.views)}")
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

    def as_json(self) -> str:
        """Write the description as JSON."""
        return json.dumps(asdict(self))

    def class_name(self, label: int) -> str:
        """Return the printable name of a class, or its number if it has no name."""
        return printable(self.classes[label], 200) if label < len(self.classes) else str(label)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value)


def kinetics_classes() -> list[str]:
    """List the classes of Kinetics-400, in the alphabetical order of all releases."""
    return (Path(__file__).parent / "kinetics400.txt").read_text().splitlines()
