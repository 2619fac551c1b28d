"""Convert weights from any known code base, or to the format of another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from nonlocalnet.cli.network import ask_for_classes, check_weights
from nonlocalnet.clips import ClipSpec
from nonlocalnet.errors import option
from nonlocalnet.networks.options import parse_options
from nonlocalnet.options import setting

if TYPE_CHECKING:
    from nonlocalnet.checkpoints.load import LoadPlan
    from nonlocalnet.checkpoints.report import LoadReport
    from nonlocalnet.checkpoints.save import Format

OURS = ".safetensors"
FORMATS: dict[str, Format] = {".pkl": "caffe2", ".pyth": "pyslowfast"}
PTH = ".pth"


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet convert`."""

    file: tyro.conf.Positional[Path]
    """Weights in any known format, or the name of a release (`nonlocalnet zoo`)."""
    out: tyro.conf.Positional[Path | None] = None
    """OUT.safetensors (this library), OUT.pkl (Caffe2), OUT.pyth (PySlowFast) or OUT.pth
    (--format); default: print what the file contains, and write nothing."""
    format: Literal["mmaction2", "gluoncv", "tsm", "pytorch_resnet3d"] | None = None
    """Code base whose format OUT.pth has."""
    clip: str | None = setting(None, parse=ClipSpec.parse)
    """FRAMESxRATE, if the file does not contain it."""
    set: tuple[str, ...] = setting((), parse=parse_options)
    """NAME=VALUE: network arguments that the file does not contain, such as
    pairwise=dot_product."""
    report: bool = False
    """Print the outcome of every key."""


def command(options: Options) -> int:
    out = options.out
    if out is not None and out.suffix not in (OURS, *FORMATS, PTH):
        raise ValueError(f"out must end in {', '.join((OURS, *FORMATS, PTH))}; got {out}")
    if (options.format is None) == (out is not None and out.suffix == PTH):
        raise ValueError(
            f"{option('format')} says whose format OUT{PTH} has; pass both or neither of them"
        )
    check_weights(options.file)

    from nonlocalnet.checkpoints.load import plan_load
    from nonlocalnet.checkpoints.report import refuse
    from nonlocalnet.checkpoints.save import export_weights, save_weights
    from nonlocalnet.checkpoints.zoo import find_release, find_weights, sha256_of
    from nonlocalnet.runtime.atomic import write_atomically
    from nonlocalnet.runtime.log import console, status

    path = find_weights(options.file)
    if out is not None and out.exists() and out.samefile(path):
        raise ValueError(f"{out} is the file to read; choose another name")
    plan = plan_load(path, clip=options.clip, **parse_options(options.set))
    if options.report:
        _print_keys(plan.report)
    _describe(plan)
    if out is None:
        refuse(path, plan.report)
        return 0
    model = plan.run()
    if out.suffix == OURS:
        facts = model.info.facts
        facts["sha256"] = sha256_of(path)
        if "release" in facts:
            release = find_release(facts["release"])
            scores = {"top-1": release.top1, "top-5": release.top5, "source": release.figure}
            facts |= {"url": release.url, "license": release.license}
            facts |= {"reported": scores, "measured": None}
        write_atomically(out, lambda place: save_weights(model, place, model.info))
    else:
        unsaid: list[str] = []
        format = options.format or FORMATS[out.suffix]
        write_atomically(out, lambda place: unsaid.extend(export_weights(model, place, format)))
        if unsaid:
            status.print(f"note: {out} cannot hold {', '.join(unsaid)}", soft_wrap=True)
    console.print(f"weights: {out}", soft_wrap=True)
    return 0


def _describe(plan: LoadPlan) -> None:
    """Print what the file contains, and what was assumed."""
    from nonlocalnet.runtime.log import console, status

    config, report = dict(plan.info.config), plan.report
    name, clip, classes = (config.pop(key, None) for key in ("name", "clip", "num_classes"))
    config.pop("crop", None)
    options = "".join(f", {key}={value!r}" for key, value in config.items())
    console.print(
        f"{report.origin}: {name}, {classes} classes, clip {clip}{options}", soft_wrap=True
    )
    for note in (*plan.assumptions, *ask_for_classes(plan.info)):
        status.print(f"note: {note}", soft_wrap=True)
    console.print(f"keys: {report}; {len(report.problems)} problems")


def _print_keys(report: LoadReport) -> None:
    from rich.table import Table

    from nonlocalnet.runtime.log import print_table

    table = Table("in the file", "in the network", "outcome", "why")
    for row in report.rows:
        table.add_row(row.theirs or "–", row.ours or "–", row.outcome, row.note)
    print_table(table)
