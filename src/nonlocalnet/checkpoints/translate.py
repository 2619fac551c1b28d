"""Translate a checkpoint of any known format: its tensors under our names.

The format is detected from the names in the file. Each format is a row in `FORMATS` and a module in
`formats` with `ORIGIN` and `translate(checkpoint)`; names are translated by ordered rules.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from nonlocalnet.checkpoints.files import KEY, Checkpoint
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.clips import MEAN, STD, Views
from nonlocalnet.errors import errors_about

# Module in `formats` -> patterns, each of which begins a name in every file of the format. The
# first format that fits is used.
FORMATS = {
    "native": (r"res2\.block0\.",),
    "torchvision_rcnn": (r"backbone\.body\.",),
    "caffe2": (r"(gpu_0/)?conv1_w$", r"(gpu_0/)?res2_0_branch2a_w$"),
    "pyslowfast": (r"s1\.pathway0_stem\.",),
    "mmaction2": (r"backbone\.",),
    "pytorchvideo": (r"blocks\.1\.res_blocks\.",),
    "gluoncv": (r"first_stage\.0\.", r"res_layers\.0\.0\."),
    "tsm": (r"base_model\.layer1\.0\.",),
    "pytorch_resnet3d": (r"layer1\.0\.",),
    "torchvision": (r"layer1\.0\.",),
}
# Format -> the axes of its conv1.weight, where another one has the same names.
STEM_AXES = {"pytorch_resnet3d": 5}

AFFINE = ("weight", "bias")
COUNTER = "num_batches_tracked"
BATCH_NORM = (*AFFINE, "running_mean", "running_var", COUNTER)


@dataclass
class Translated:
    """A checkpoint under our names. Each name in the file is in `names`, `ignored` or `unknown`.

    Attributes:
        origin: the project whose format it has.
        projects: the projects in the zoo that release files of this format.
        tensors: our name -> tensor.
        names: our name -> the name in the file.
        ignored: name in the file -> why it is not used.
        unknown: names in the file that no rule knows.
        made: our name -> why a tensor that the file lacks was made.
        fields: arguments of `VideoResNet` that the file, or the code of its project, determines.
        assumed: argument -> (value, why): what the file does not say but is nearly always true.
        derived: the same, argument -> why, for values that follow from clip and crop, and for
            mean, std and multi_label.
        asked: argument -> example: what the file does not say and the user has to pass.
        flat: whether it is an ImageNet classifier, whose 2-D kernels are to be inflated.
        part: prefix of the part of the network that the file is for; the rest is left as it is.
        groups: of a classifier's 3x3 convolutions; a ResNeXt has many.
        like: name of a network of the same family in the table; "" for the family "video".
        detector: of a detector: kind, num_classes, depths and groups.
        cleaned: whether its batch norms lack statistics, as in the official ImageNet files.
        stated: arguments that a configuration in the file states, too: no tensors are missing.
        left: prefix of our names -> why the file has no tensors for them; they stay as they are.
        notes: what the user should know about how it was read.
        clip, crop, short_side, mean, std, multi_label: of the input; None if unknown.
        classes: their names, if the file has them.
        dataset: what it was trained on, if the file says so.
        views: what the network is tested on by default.
        info: the description in a file of ours.
    """

    origin: str
    projects: tuple[str, ...] = ()
    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, tuple[Any, str]] = field(default_factory=dict)
    derived: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    flat: bool = False
    part: str = ""
    groups: int = 1
    like: str = ""
    detector: dict[str, Any] | None = None
    cleaned: bool = False
    stated: tuple[str, ...] = ()
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    clip: str | None = None
    crop: int = 224
    short_side: int = 256
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    multi_label: bool = False
    classes: list[str] = field(default_factory=list)
    dataset: str | None = None
    views: Views = field(default_factory=Views)
    info: WeightsInfo | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor, by our names."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def make_zeros(self, name: str, channels: int, why: str) -> None:
        """Add a tensor of zeros that the file lacks."""
        self.tensors[name] = LazyTensor((channels,), torch.float32, lambda: torch.zeros(channels))
        self.made[name] = why

    def leave_classifier(self, why: str) -> None:
        """Use the backbone alone: the classifier is for something else than clips."""
        if self.leave("fc.", why):
            self.left["fc."] = why

    def leave(self, prefix: str, why: str) -> list[str]:
        """Use no tensor of ours whose name starts with a prefix; return their names."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        for name in names:
            del self.tensors[name]
            self.ignored[self.names.pop(name, name)] = why
        return names

    def swap_colors(self) -> None:
        """Turn stems that read blue, green, red into ones that read red, green, blue."""
        for name in ("conv1.weight", "fast.conv1.weight"):
            if name in self.tensors:
                stem = self.tensors[name]
                self.tensors[name] = stem.map(stem.shape, lambda weight: weight.flip(1))
        self.mean, self.std = self.mean[::-1], self.std[::-1]


def translate(checkpoint: Checkpoint) -> Translated:
    """Detect the format of a checkpoint and translate it.

    Raises:
        ValueError: the format is unknown, or the network is not one that can be built here.
    """
    with errors_about(checkpoint.path):
        bare, wrapping = _unwrap(checkpoint)
        for name, patterns in FORMATS.items():
            fits = _has_all(bare.tensors, patterns) and _has_stem(bare, STEM_AXES.get(name))
            if fits or (name == "native" and KEY in checkpoint.meta):
                return wrapping.apply(_import_format(name).translate(bare))
        if problem := _without_prefix(checkpoint.tensors):
            raise ValueError(
                f"{problem}: does it hold more than a network? Save the network's state_dict alone"
            )
        names = ", ".join(list(checkpoint.tensors)[:3])
        known = ", ".join(_import_format(name).ORIGIN for name in FORMATS)
        raise ValueError(f"its names ({names}, ...) are of no known format; there are {known}")


def _import_format(name: str) -> Any:
    return importlib.import_module(f"{__package__}.formats.{name}")


def _has_all(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return all(any(re.match(pattern, name) for name in names) for pattern in patterns)


def _has_stem(checkpoint: Checkpoint, axes: int | None) -> bool:
    stem = checkpoint.tensors.get("conv1.weight")
    return axes is None or (stem is not None and len(stem.shape) == axes)


# --- names, by rule


def layer(theirs: str, ours: str, kinds: Iterable[str] = ("weight",)) -> Iterator[tuple[str, str]]:
    """Give the rules of one layer, whose tensors have the same names in both code bases.

    >>> list(layer("head", "fc", AFFINE))
    [('head.weight', 'fc.weight'), ('head.bias', 'fc.bias')]
    """
    for kind in kinds:
        yield f"{theirs}.{kind}", f"{ours}.{kind}"


class Rules:
    """Ordered rules that rename parameters, in both directions; the first that fits is used.

    A rule is a pair of templates, theirs and ours, with placeholders {i}, {s}, ... that stand for
    the same number on both sides.

    >>> rules = Rules([("res{s}_{i}_w", "res{s}.block{i}.weight")])
    >>> rules.to_ours("res2_10_w"), rules.to_theirs("res2.block10.weight"), rules.to_ours("lr")
    ('res2.block10.weight', 'res2_10_w', None)
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.pairs = pairs = list(pairs)
        self._forward = [(_pattern(theirs), ours) for theirs, ours in pairs]
        self._backward = [(_pattern(ours), theirs) for theirs, ours in pairs]

    def to_ours(self, name: str) -> str | None:
        """Translate their name; None if no rule fits."""
        return _apply(self._forward, name)

    def to_theirs(self, name: str) -> str | None:
        """Translate our name; None if no rule fits."""
        return _apply(self._backward, name)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(template)))


def _apply(rules: list[tuple[re.Pattern[str], str]], name: str) -> str | None:
    for pattern, template in rules:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict())
    return None


def rename(
    origin: str,
    checkpoint: Checkpoint,
    rules: Rules,
    *,
    projects: tuple[str, ...] = (),
    ignored: Mapping[str, str] | None = None,
    prefix: str = "",
    unwrap: Callable[[str], str] = str,
    repeated: bool = False,
) -> Translated:
    """Rename all keys of a checkpoint by rules; keys that no rule knows are kept as unknown.

    Args:
        origin, projects: as in `Translated`.
        checkpoint: the file.
        rules: between its names and ours.
        ignored: pattern of names that are not needed -> why.
        prefix: taken off each name that has it.
        unwrap: takes the names of wrappers out of a name.
        repeated: whether files have tensors under two names, whose numbers must be the same.

    Raises:
        ValueError: two keys of the file have the same name in ours, and may not or differ.
    """
    result = Translated(origin, projects)
    for name, tensor in checkpoint.tensors.items():
        bare = unwrap(name.removeprefix(prefix))
        if reason := _find_reason(bare, ignored):
            result.ignored[name] = reason
        elif (ours := rules.to_ours(bare)) is None:
            result.unknown.append(name)
        elif ours in result.names and repeated:
            first = result.names[ours]
            if not torch.equal(checkpoint.tensors[first].read(), tensor.read()):
                raise ValueError(f"its {first!r} and {name!r} are both {ours}, but they differ")
            result.ignored[name] = f"the same tensor as {first}"
        elif ours in result.names:
            raise ValueError(f"its {result.names[ours]!r} and {name!r} are both {ours}")
        else:
            result.tensors[ours], result.names[ours] = tensor, name
    for name in checkpoint.others:
        if reason := _find_reason(name.removeprefix(prefix), ignored):
            result.ignored[name] = reason
        else:
            result.unknown.append(name)
    return result


def _find_reason(name: str, ignored: Mapping[str, str] | None) -> str | None:
    reasons = (why for pattern, why in (ignored or {}).items() if re.fullmatch(pattern, name))
    return next(reasons, None)


# --- prefixes that wrappers put before and into names
#
# Networks are often saved as part of something else: of DistributedDataParallel, of a compiled or
# sharded module, of a Lightning module, of a running average.

# Wherever a module was wrapped: torch.compile, FSDP, activation checkpointing.
INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Before every name: the attribute that holds the network.
BEFORE = (
    "module.",  # DataParallel, DistributedDataParallel, AveragedModel, DeepSpeed
    "_forward_module.",  # Lightning Fabric
    "model.",  # the usual names in Lightning modules; so the next two
    "net.",
    "network.",
)
AVERAGES = ("ema.", "ema_model.", "model_ema.", "averaged_model.", "swa_model.", "average_model.")
BESIDE = {"n_averaged": "the number of networks in an average"}


@dataclass
class _Wrapping:
    """What was taken off the names of a checkpoint.

    Attributes:
        originals: name without it -> name in the file.
        ignored: names in the file that are not part of the network -> why.
        prefixes: what was taken off, in the order in the names.
    """

    originals: dict[str, str]
    ignored: dict[str, str] = field(default_factory=dict)
    prefixes: list[str] = field(default_factory=list)

    def apply(self, result: Translated) -> Translated:
        """Put the names in the file back in place of the bare ones, and note the prefixes."""
        of = self.originals
        result.names = {ours: of.get(name, name) for ours, name in result.names.items()}
        result.ignored = {of.get(name, name): why for name, why in result.ignored.items()}
        result.ignored |= self.ignored
        result.unknown = [of.get(name, name) for name in result.unknown]
        if self.prefixes:
            prefix = repr("".join(self.prefixes))
            result.notes.append(f"{prefix} was taken off its names: wrappers add it")
        return result


def _unwrap(checkpoint: Checkpoint) -> tuple[Checkpoint, _Wrapping]:
    """Give the tensors the names that they have in the network itself.

    A prefix in `BEFORE` or `AVERAGES` is removed if all tensors have it, repeatedly; those in
    `INSIDE` are removed anywhere. If weights and a running average of them are there, the weights
    are used.
    """
    names = {name: name for name in checkpoint.tensors if name not in BESIDE}
    wrapping = _Wrapping({})
    for part in INSIDE:
        without = {bare.replace(part, ""): name for bare, name in names.items()}
        if len(without) == len(names) and "" not in without and list(without) != list(names):
            names = without
            wrapping.prefixes.append(part)
    while names:
        groups = _group(names)
        averages = [prefix for prefix in groups if prefix in AVERAGES]
        own = [prefix for prefix in groups if prefix not in averages]
        if "" in groups or len(own) > 1 or (not own and len(averages) > 1):
            break
        prefix = (own or averages)[0]
        for other in groups:
            if other != prefix:
                why = "a running average of the weights, which are in the file as well"
                wrapping.ignored |= dict.fromkeys(groups[other].values(), why)
        names = groups[prefix]
        wrapping.prefixes.append(prefix)
    if not wrapping.prefixes:
        return checkpoint, _Wrapping({}, dict(checkpoint.beside))
    wrapping.originals = names
    first = next(iter(names.values()))
    wrapping.prefixes.sort(key=lambda part: first.find(part) % (len(first) + 1))
    wrapping.ignored |= checkpoint.beside
    wrapping.ignored |= {name: why for name, why in BESIDE.items() if name in checkpoint.tensors}
    tensors = {bare: checkpoint.tensors[name] for bare, name in names.items()}
    return replace(checkpoint, tensors=tensors), wrapping


def _group(names: dict[str, str]) -> dict[str, dict[str, str]]:
    """Group names by the known prefix that they begin with, "" if there is none."""
    groups: dict[str, dict[str, str]] = {}
    for bare, name in names.items():
        prefix = next((p for p in (*BEFORE, *AVERAGES) if bare.startswith(p) and bare != p), "")
        groups.setdefault(prefix, {})[bare.removeprefix(prefix)] = name
    return groups


def _without_prefix(names: Iterable[str]) -> str:
    """Name the few names without the prefix that all others have; "" if that is not the case.

    >>> _without_prefix(["model.conv1.weight", "model.fc.weight", "loss.weight"])
    "'model.' is before all of its names but loss.weight"
    """
    groups = _group({name: name for name in names})
    without = groups.pop("", {})
    if len(groups) != 1 or not 0 < len(without) < len(next(iter(groups.values()))):
        return ""
    first = list(without)
    more = f" and {len(first) - 3} more" if len(first) > 3 else ""
    return f"{next(iter(groups))!r} is before all of its names but {', '.join(first[:3])}{more}"
