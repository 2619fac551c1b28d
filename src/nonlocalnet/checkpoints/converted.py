"""What a checkpoint becomes: tensors in our names, the network they are for, what was left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.lazy_tensor import Entry
from nonlocalnet.checkpoints.rules import Rules
from nonlocalnet.clips import MEAN, STD


@dataclass
class Converted:
    """A checkpoint in our terms; every key of the file is in `names`, `ignored` or `unknown`.

    Attributes:
        origin: the project whose layout it has.
        tensors: our name -> tensor.
        names: our name -> theirs.
        ignored: their name -> the rule by which it is not used.
        unknown: their names that no rule knows.
        made: our name -> the rule by which a tensor that the file lacks was made.
        fields: arguments of `VideoResNet` that the file, or the origin's code, decides.
        assumed: argument -> (value, why): what the file does not say and is nearly always so.
        derived: argument -> why: the same of what follows from the clip and the crop, and of what
            is told of the input: mean, std, multi_label.
        asked: argument -> what must be said by name, since the file does not and it varies.
        flat: whether it is a 2-D image classifier, to be inflated or to be a detector's backbone.
        groups: of an image classifier's 3x3 convolutions; a ResNeXt has many.
        detector: of a detector, its kind, num_classes, depths and groups.
        cleaned: whether it has batch norms without statistics, as official ImageNet files.
        notes: what else is to be told of how it was read.
        clip, crop, short_side, mean, std, multi_label: of its input; None where not said.
        classes: their names, where the file has them.
        dataset: what it was trained on, where the file says it.
    """

    origin: str
    tensors: dict[str, Entry] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, tuple[Any, str]] = field(default_factory=dict)
    derived: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    flat: bool = False
    groups: int = 1
    detector: dict[str, Any] | None = None
    cleaned: bool = False
    notes: list[str] = field(default_factory=list)
    clip: str | None = None
    crop: int = 224
    short_side: int = 256
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    multi_label: bool = False
    classes: list[str] = field(default_factory=list)
    dataset: str | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by our names."""
        return {name: entry.shape for name, entry in self.tensors.items()}

    def make_zeros(self, name: str, channels: int, rule: str) -> None:
        """Add a tensor of zeros that the file lacks."""
        self.tensors[name] = Entry((channels,), torch.float32, lambda: torch.zeros(channels))
        self.made[name] = rule

    def swap_colors(self) -> None:
        """Turn a stem that reads blue, green, red into one that reads red, green, blue."""
        stem = self.tensors["conv1.weight"]
        self.tensors["conv1.weight"] = stem.map(stem.shape, lambda weight: weight.flip(1))
        self.mean, self.std = self.mean[::-1], self.std[::-1]


def translate(
    origin: str,
    checkpoint: Checkpoint,
    rules: Rules,
    *,
    ignore: Callable[[str], str | None] = lambda name: None,
    prefix: str = "",
) -> Converted:
    """Rename every key of a checkpoint by rules; what no rule knows is kept as unknown.

    Args:
        ignore: gives the reason why a key is not needed, or None.
        prefix: that may be before a name, for each by itself.

    Raises:
        ValueError: two keys of the file have one name in ours.
    """
    result = Converted(origin)
    for name, entry in checkpoint.entries.items():
        bare = name.removeprefix(prefix)
        if reason := ignore(bare):
            result.ignored[name] = reason
        elif (ours := rules.to_ours(bare)) is None:
            result.unknown.append(name)
        elif ours in result.names:
            raise ValueError(f"its {result.names[ours]!r} and {name!r} are both {ours}")
        else:
            result.tensors[ours], result.names[ours] = entry, name
    for name in checkpoint.others:
        reason = ignore(name.removeprefix(prefix))
        if reason:
            result.ignored[name] = reason
        else:
            result.unknown.append(name)
    return result
