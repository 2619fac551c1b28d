"""What becomes of every key of a file and of a network, told before anything is changed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nonlocalnet.checkpoints.converted import Converted
from nonlocalnet.checkpoints.folding import fold_norms
from nonlocalnet.checkpoints.formats.torchvision import inflate
from nonlocalnet.checkpoints.formats.torchvision_rcnn import BACKBONE
from nonlocalnet.checkpoints.rules import COUNTER
from nonlocalnet.detection.networks import is_detector

# What a network computes and no shape shows: file and network must agree.
CONVENTIONS = ("stem_padding", "pool1_time", "pool2_time")
BLOCK_CONVENTIONS = ("pairwise", "scale", "subsample", "subsample_position", "extent")


# What depends on the classes.
CLASSIFIERS = ("fc.", "roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
KEYPOINTS = "roi_heads.keypoint_predictor."  # depends on how many there are
BLOCK = re.compile(r".*?\bnon_local\d*(?=\.)")

Outcome = Literal["loaded", "inflated", "made", "left", "ignored", "unknown", "missing", "mismatch"]
PROBLEMS = ("unknown", "missing", "mismatch")


@dataclass(frozen=True)
class Row:
    """What became of one key: its name in the file, in the network, and why."""

    theirs: str | None
    ours: str | None
    outcome: Outcome
    note: str = ""


@dataclass
class LoadReport:
    """What became of every key of a file and of a network.

    Attributes:
        origin: the project whose layout the file has.
        rows: one a key.
        conflicts: where the file's network and this one compute different things from equal shapes.
        notes: what else is to be known, such as a wrapper's prefix that was taken off.
    """

    origin: str
    rows: list[Row]
    conflicts: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def loaded(self) -> list[str]:
        """Keys of the network that the file filled."""
        return [r.ours for r in self.rows if r.ours and r.outcome in ("loaded", "inflated", "made")]

    @property
    def left(self) -> list[str]:
        """Keys of the network that stayed as they were."""
        return [r.ours for r in self.rows if r.ours and r.outcome == "left"]

    @property
    def unused(self) -> list[str]:
        """Keys of the file that were not used."""
        return [r.theirs for r in self.rows if r.theirs and r.outcome in ("left", "ignored")]

    @property
    def problems(self) -> list[Row]:
        """Why it was not done, if it was not."""
        return [row for row in self.rows if row.outcome in PROBLEMS]

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} loaded, {len(self.left)} left, {len(self.unused)} unused"
        return "; ".join([counts, *self.notes])


def compare(
    model: nn.Module,
    converted: Converted,
    *,
    new_classifier: bool = False,
    new_blocks: bool = False,
    new_parts: Sequence[str] = (),
) -> LoadReport:
    """Tell what would become of every key of a file and of a network; the network stays.

    Batch norms of a file are folded first where the network's norms are frozen.
    """
    if _frozen(model) and any(key.endswith(".running_var") for key in converted.tensors):
        fold_norms(converted)
    target = model.state_dict()
    tensors, rows = converted.tensors, []
    in_file = {_block(key) for key in tensors}
    backbone = converted.flat and is_detector(model)
    for key, value in target.items():
        theirs = converted.names.get(key)
        if new_classifier and key.startswith(CLASSIFIERS):
            rows.append(Row(theirs, key, "left", "a new classifier"))
        elif (
            new_classifier
            and key.startswith(KEYPOINTS)
            and key in tensors
            and tensors[key].shape != tuple(value.shape)
        ):
            rows.append(Row(theirs, key, "left", "new, for another number of keypoints"))
        elif backbone and not key.startswith(BACKBONE):
            rows.append(Row(None, key, "left", "no part of the backbone"))
        elif key in tensors:
            rows.append(_fit(theirs, key, value, converted))
        elif new_blocks and _block(key) and _block(key) not in in_file:
            rows.append(Row(None, key, "left", "a new non-local block"))
        elif part_of(key, new_parts):
            rows.append(Row(None, key, "left", f"a new {part_of(key, new_parts)}"))
        elif key.endswith(COUNTER):
            rows.append(Row(None, key, "made", "zero: a counter that the file lacks"))
        elif converted.cleaned and key.endswith(("running_mean", "running_var")):
            rows.append(Row(None, key, "made", "fresh: the file was cleaned of its statistics"))
        else:
            rows.append(Row(None, key, "missing", f"{key} is not in the file"))
    for key in tensors:
        theirs = converted.names.get(key, key)
        if key not in target and key.replace(COUNTER, "running_mean") in target:
            rows.append(Row(theirs, None, "ignored", "a counter, which frozen norms have not"))
        elif key not in target:
            same = "" if theirs == key else f" ({key})"
            what = ", of a non-local block," if _block(key) else ""
            rows.append(Row(theirs, key, "unknown", f"{theirs}{same}{what} is not in the network"))
    rows += [Row(name, None, "ignored", rule) for name, rule in converted.ignored.items()]
    rows += [
        Row(name, None, "unknown", f"{name} is not in the network: no rule knows it")
        for name in converted.unknown
    ]
    return LoadReport(converted.origin, rows, _conflicts(model, converted), converted.notes)


def _fit(theirs: str | None, key: str, place: Tensor, converted: Converted) -> Row:
    if key in converted.made:
        return Row(None, key, "made", converted.made[key])
    entry = converted.tensors[key]
    given, wanted = entry.shape, tuple(place.shape)
    name = key if theirs in (None, key) else f"{theirs} ({key})"
    if place.is_floating_point() != entry.dtype.is_floating_point:
        kinds = f"{entry.dtype} in the file and {place.dtype} in the network"
        return Row(theirs, key, "mismatch", f"{name} is {kinds}")
    if given == wanted:
        return Row(theirs, key, "loaded")
    if converted.flat and len(given) == 4 and given == (*wanted[:2], *wanted[3:]):
        return Row(theirs, key, "inflated", f"{wanted[2]} copies, each divided by {wanted[2]}")
    sizes = f"{given} in the file and {wanted} in the network"
    return Row(theirs, key, "mismatch", f"{name} is {sizes}")


def part_of(key: str, parts: Iterable[str]) -> str | None:
    """The part that a key belongs to: res5, layer4, roi_heads, res4.block0."""
    return next((part for part in parts if f".{part}." in f".{key}"), None)


def _block(key: str) -> str | None:
    """The non-local block that a key belongs to."""
    match = BLOCK.match(key)
    return match[0] if match else None


def _frozen(model: nn.Module) -> bool:
    return getattr(model, "arguments", {}).get("norm") == "frozen"


def _conflicts(model: nn.Module, converted: Converted) -> list[str]:
    """Where the network computes something else with the same shapes."""
    arguments = getattr(model, "arguments", None)
    if arguments is None:
        return []
    if converted.flat:
        grouped = "the file's is a ResNeXt, of grouped convolutions: not ResNet-50 or -101"
        return [grouped] if converted.groups != 1 else []
    names = CONVENTIONS
    if any(_block(key) for key in converted.tensors):
        names += BLOCK_CONVENTIONS
    return [
        f"the file's network has {name}={converted.fields[name]!r}, this one {arguments[name]!r}"
        for name in names
        if name in converted.fields and differ(converted.fields[name], arguments[name])
    ]


def differ(a: Any, b: Any) -> bool:
    """Tell whether two values of an argument differ; a list is a tuple."""
    a, b = (list(v) if isinstance(v, tuple) else v for v in (a, b))
    return a != b


class Unfit(ValueError):
    """A file does not fit a network; `report` says where."""

    def __init__(self, text: str, report: LoadReport) -> None:
        super().__init__(text)
        self.report = report


def refuse(path: str | os.PathLike, report: LoadReport) -> None:
    """Raise an `Unfit` that names the problems of a report, if it has any."""
    wrong = report.conflicts + [row.note for row in report.problems]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        text = f"{path} does not fit the network: {'; '.join(wrong[:5])}{more}"
        raise Unfit(text, report)


def check_numbers(path: str | os.PathLike, converted: Converted) -> None:
    """Read all tensors once, so that none is taken from a file that turns out to be damaged.

    Raises:
        ValueError: numbers are missing or have changed, or are infinite or not numbers.
    """
    for name, entry in converted.tensors.items():
        value = entry.read()
        theirs = converted.names.get(name, name)
        if value.is_floating_point() and not value.float().isfinite().all():
            raise ValueError(f"{path}: {theirs} has infinite numbers, or what is no number")
        if name.endswith("running_var") and value.min() < 0:
            raise ValueError(f"{path}: {theirs} is a variance and has negative numbers")


@torch.no_grad()
def fill(model: nn.Module, converted: Converted, report: LoadReport) -> None:
    """Copy tensors into the model as a report without problems says, one at a time."""
    target = model.state_dict()
    for row in report.rows:
        if row.ours is None or row.outcome not in ("loaded", "inflated", "made"):
            continue
        place, entry = target[row.ours], converted.tensors.get(row.ours)
        if entry is None:  # made, and not by the origin's rule
            place.fill_(1 if row.ours.endswith("running_var") else 0)
        else:
            if row.outcome == "inflated":
                entry = inflate(entry, place.shape[2])
            place.copy_(entry.read())
