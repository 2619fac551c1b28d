"""Compare a file with a network, report what happens to every key, and fill the network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nonlocalnet.checkpoints.folding import fold_norms
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.translate import COUNTER, Translated
from nonlocalnet.networks.arguments import normal

# Arguments that no shape shows but change the result: file and network must agree.
CONVENTIONS = (
    "stem_padding",
    "pool1_time",
    "pool2_time",
    "strides",
    "dilations",
    "shift_div",
    "alpha",
)
BLOCK_CONVENTIONS = (
    "pairwise",
    "scale",
    "subsample",
    "subsample_position",
    "extent",
    "temporal_group",
)

# Keys that depend on the classes.
CLASSIFIERS = ("fc.", "roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
KEYPOINTS = "roi_heads.keypoint_predictor."  # its shape depends on their number
BLOCK = re.compile(r".*?\bnon_local\d*(?=\.)")

Outcome = Literal["loaded", "inflated", "made", "left", "ignored", "unknown", "missing", "mismatch"]
PROBLEMS = ("unknown", "missing", "mismatch")


@dataclass(frozen=True)
class Row:
    """What happens to one key: its name in the file, in the network, and why."""

    theirs: str | None
    ours: str | None
    outcome: Outcome
    note: str = ""


@dataclass
class LoadReport:
    """What happens to every key of a file and of a network.

    Attributes:
        origin: the project whose format the file has.
        rows: one for each key.
        conflicts: where the network would compute something else than the file's, in spite of equal
            shapes.
        notes: anything else the user should know, such as a prefix that was taken off.
    """

    origin: str
    rows: list[Row]
    conflicts: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def loaded(self) -> list[str]:
        """Keys of the network that the file fills."""
        return [r.ours for r in self.rows if r.ours and r.outcome in ("loaded", "inflated", "made")]

    @property
    def left(self) -> list[str]:
        """Keys of the network that stay as they are."""
        return [r.ours for r in self.rows if r.ours and r.outcome == "left"]

    @property
    def unused(self) -> list[str]:
        """Keys of the file that are not used."""
        return [r.theirs for r in self.rows if r.theirs and r.outcome in ("left", "ignored")]

    @property
    def problems(self) -> list[Row]:
        """Rows for which the file cannot be loaded."""
        return [row for row in self.rows if row.outcome in PROBLEMS]

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} loaded, {len(self.left)} left, {len(self.unused)} unused"
        return "; ".join([counts, *self.notes])


def compare(
    model: nn.Module,
    translated: Translated,
    *,
    new_classifier: bool = False,
    new_blocks: bool = False,
    new_parts: Sequence[str] = (),
) -> LoadReport:
    """Compare a file with a network, without changing the network.

    If the network's norms are frozen, the batch norms of the file are folded first.

    Args:
        model: the network; it may be on the meta device.
        translated: the content of the file.
        new_classifier, new_blocks, new_parts: what the file need not have; see `load_weights`.

    Returns:
        What would happen to every key.
    """
    if _frozen(model) and any(key.endswith(".running_var") for key in translated.tensors):
        fold_norms(translated)
    target = model.state_dict()
    tensors, rows = translated.tensors, []
    in_file = {_block(key) for key in tensors}
    for key, value in target.items():
        theirs = translated.names.get(key)
        if new_classifier and key.startswith(CLASSIFIERS):
            rows.append(Row(theirs, key, "left", "a new classifier"))
        elif (
            new_classifier
            and key.startswith(KEYPOINTS)
            and key in tensors
            and tensors[key].shape != tuple(value.shape)
        ):
            rows.append(Row(theirs, key, "left", "new, for another number of keypoints"))
        elif why := part_left(key, translated.left):
            rows.append(Row(None, key, "left", why))
        elif not key.startswith(translated.part):
            rows.append(Row(None, key, "left", f"the file is for {translated.part}* only"))
        elif key in tensors:
            rows.append(_fit(theirs, key, value, translated))
        elif new_blocks and _block(key) and _block(key) not in in_file:
            rows.append(Row(None, key, "left", "a new non-local block"))
        elif part_of(key, new_parts):
            rows.append(Row(None, key, "left", f"a new {part_of(key, new_parts)}"))
        elif key.endswith(COUNTER):
            rows.append(Row(None, key, "made", "zero: a counter that the file lacks"))
        elif translated.cleaned and key.endswith(("running_mean", "running_var")):
            rows.append(Row(None, key, "made", "fresh: the file lacks the statistics of its norms"))
        else:
            rows.append(Row(None, key, "missing", f"{key} is not in the file"))
    for key in tensors:
        theirs = translated.names.get(key, key)
        if key not in target and key.replace(COUNTER, "running_mean") in target:
            rows.append(Row(theirs, None, "ignored", "a counter; frozen norms have none"))
        elif key not in target:
            same = "" if theirs == key else f" ({key})"
            what = ", of a non-local block," if _block(key) else ""
            rows.append(Row(theirs, key, "unknown", f"{theirs}{same}{what} is not in the network"))
    rows += [Row(name, None, "ignored", rule) for name, rule in translated.ignored.items()]
    rows += [
        Row(name, None, "unknown", f"{name} is not in the network: no rule knows it")
        for name in translated.unknown
    ]
    return LoadReport(translated.origin, rows, _conflicts(model, translated), translated.notes)


def _fit(theirs: str | None, key: str, place: Tensor, translated: Translated) -> Row:
    if key in translated.made:
        return Row(None, key, "made", translated.made[key])
    tensor = translated.tensors[key]
    given, wanted = tensor.shape, tuple(place.shape)
    name = key if theirs in (None, key) else f"{theirs} ({key})"
    if place.is_floating_point() != tensor.dtype.is_floating_point:
        kinds = f"{tensor.dtype} in the file and {place.dtype} in the network"
        return Row(theirs, key, "mismatch", f"{name} is {kinds}")
    if given == wanted:
        return Row(theirs, key, "loaded")
    if translated.flat and len(given) == 4 and given == (*wanted[:2], *wanted[3:]):
        return Row(theirs, key, "inflated", f"{wanted[2]} copies, each divided by {wanted[2]}")
    sizes = f"{given} in the file and {wanted} in the network"
    return Row(theirs, key, "mismatch", f"{name} is {sizes}")


def part_left(key: str, left: Mapping[str, str]) -> str | None:
    """Say why the file has no tensor for a key, if it was left out on purpose."""
    return next((why for prefix, why in left.items() if key.startswith(prefix)), None)


def part_of(key: str, parts: Iterable[str]) -> str | None:
    """Find the part that a key belongs to: res5, layer4, roi_heads, res4.block0."""
    return next((part for part in parts if f".{part}." in f".{key}"), None)


def _block(key: str) -> str | None:
    """Find the non-local block that a key belongs to."""
    match = BLOCK.match(key)
    return match[0] if match else None


def _frozen(model: nn.Module) -> bool:
    return getattr(model, "arguments", {}).get("norm") == "frozen"


def _conflicts(model: nn.Module, translated: Translated) -> list[str]:
    """List where the network computes something else, in spite of equal shapes."""
    arguments = getattr(model, "arguments", None)
    if arguments is None:
        return []
    if translated.flat:
        grouped = "the file is for a ResNeXt, with grouped convolutions, not for ResNet-50 or -101"
        return [grouped] if translated.groups != 1 else []
    names = CONVENTIONS
    if any(_block(key) for key in translated.tensors):
        names += BLOCK_CONVENTIONS
    return [
        f"the file's network has {name}={translated.fields[name]!r}, this one {arguments[name]!r}"
        for name in names
        if name in translated.fields
        and name in arguments
        and differ(name, translated.fields[name], arguments[name])
        # a file without groups may start a network with groups, as in the long-clip recipe
        and (name != "temporal_group" or translated.fields[name])
    ]


def differ(name: str, a: Any, b: Any) -> bool:
    """Tell whether two values of an argument differ; lists and tuples are the same."""
    return normal(name, a) != normal(name, b)


class Unfit(ValueError):
    """A file that does not fit a network; `report` says where."""

    def __init__(self, text: str, report: LoadReport) -> None:
        super().__init__(text)
        self.report = report


def refuse(path: str | os.PathLike, report: LoadReport) -> None:
    """Raise an `Unfit` that names the problems in a report, if there are any."""
    wrong = report.conflicts + [row.note for row in report.problems]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        text = f"{path} does not fit the network: {'; '.join(wrong[:5])}{more}"
        raise Unfit(text, report)


def check(path: str | os.PathLike, translated: Translated, report: LoadReport) -> None:
    """Refuse a file that does not fit, and read all its tensors, before the network is changed.

    Raises:
        ValueError: it does not fit the network; numbers are missing or have changed; a number is
            infinite or NaN; a variance is negative.
    """
    refuse(path, report)
    for name, tensor in translated.tensors.items():
        value = tensor.read()
        theirs = translated.names.get(name, name)
        if value.is_floating_point() and not value.float().isfinite().all():
            raise ValueError(f"{path}: {theirs} has numbers that are infinite or NaN")
        if name.endswith("running_var") and value.min() < 0:
            raise ValueError(f"{path}: {theirs} is a variance and has negative numbers")


@torch.no_grad()
def fill(model: nn.Module, translated: Translated, report: LoadReport) -> None:
    """Copy tensors into the model, one at a time, as a report without problems says."""
    target = model.state_dict()
    for row in report.rows:
        if row.ours is None or row.outcome not in ("loaded", "inflated", "made"):
            continue
        place, tensor = target[row.ours], translated.tensors.get(row.ours)
        if tensor is None:  # made here, not by the format
            place.fill_(1 if row.ours.endswith("running_var") else 0)
        else:
            if row.outcome == "inflated":
                tensor = inflate(tensor, place.shape[2])
            place.copy_(tensor.read())


def inflate(weight: LazyTensor, frames: int) -> LazyTensor:
    """Inflate a 2-D kernel to 3-D: t copies of weight / t along a new time axis.

    (o, i, h, w) -> (o, i, t, h, w). On a video that repeats one frame, the response equals
    that to the image wherever the kernel does not reach the padding in time.

    Source: paper, section 4.1 ("Inflated 3D ConvNet"); official loader.
    """

    def change(weight: Tensor) -> Tensor:
        return weight.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames

    return weight.map((*weight.shape[:2], frames, *weight.shape[2:]), change)
