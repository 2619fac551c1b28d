"""Convert weights of any known code base to ours, or ours to Caffe2's and PySlowFast's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from nonlocalnet.checkpoints.download import find_weights
from nonlocalnet.checkpoints.load import Layout, examine, export_weights, save_weights
from nonlocalnet.checkpoints.report import LoadReport, check_numbers, fill, refuse
from nonlocalnet.checkpoints.resolve import assumptions, unnamed
from nonlocalnet.checkpoints.zoo import Release, find_release, sha256_of
from nonlocalnet.networks.options import parse_options
from nonlocalnet.networks.video_resnet import VideoResNet
from nonlocalnet.runtime.atomic import write_atomically
from nonlocalnet.runtime.log import console, print_table, status

OURS = ".safetensors"
LAYOUTS: dict[str, Layout] = {".pkl": "caffe2", ".pyth": "pyslowfast"}


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet convert`."""

    file: tyro.conf.Positional[Path]
    """Weights of any known format, or the name of a release (nonlocalnet zoo)."""
    out: tyro.conf.Positional[Path | None] = None
    """OUT.safetensors (ours), OUT.pkl (Caffe2) or OUT.pyth (PySlowFast); without it, only look."""
    clip: str | None = None
    """FRAMESxRATE, where the file does not say it."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: arguments of the network that the file does not say, such as
    pairwise=dot_product."""
    report: bool = False
    """Print what became of every key."""


def command(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    out = options.out
    if out is not None and out.suffix not in (OURS, *LAYOUTS):
        raise ValueError(f"out must end in {', '.join((OURS, *LAYOUTS))}; got {out}")
    path = find_weights(options.file)
    if out is not None and out.exists() and out.samefile(path):
        raise ValueError(f"{out} is the file to be read; choose another name")
    model, converted, report = examine(path, clip=options.clip, **parse_options(options.set))
    if options.report:
        print_table(_table(report))
    _describe(model, report)
    refuse(path, report)
    if out is None:
        return 0
    check_numbers(path, converted)
    fill(model, converted, report)
    if out.suffix == OURS:
        model.info.facts["sha256"] = sha256_of(path)
        if "release" in model.info.facts:
            model.info.facts |= _facts(find_release(model.info.facts["release"]))
        write_atomically(out, lambda place: save_weights(model, place, model.info))
    else:
        unsaid: list[str] = []
        layout = LAYOUTS[out.suffix]
        write_atomically(out, lambda place: unsaid.extend(export_weights(model, place, layout)))
        if unsaid:
            status.print(f"note: {out} cannot say {', '.join(unsaid)}", soft_wrap=True)
    console.print(f"weights: {out}", soft_wrap=True)
    return 0


def _describe(model: VideoResNet, report: LoadReport) -> None:
    """Say what the file is, and what was assumed of it."""
    config = dict(model.info.config)
    name, clip, classes = (config.pop(key, None) for key in ("name", "clip", "num_classes"))
    config.pop("crop", None)
    options = "".join(f", {key}={value!r}" for key, value in config.items())
    console.print(
        f"{report.origin}: {name}, {classes} classes, clip {clip}{options}", soft_wrap=True
    )
    for note in (*assumptions(model, report), *unnamed(model.info)):
        status.print(f"note: {note}", soft_wrap=True)
    console.print(f"keys: {report}; {len(report.problems)} problems")


def _table(report: LoadReport) -> Table:
    table = Table("in the file", "in the network", "outcome", "why")
    for row in report.rows:
        table.add_row(row.theirs or "–", row.ours or "–", row.outcome, row.note)
    return table


def _facts(release: Release) -> dict[str, object]:
    return {
        "url": release.url,
        "license": release.license,
        "reported": {"top-1": release.top1, "top-5": release.top5, "source": release.figure},
        "measured": None,
    }
