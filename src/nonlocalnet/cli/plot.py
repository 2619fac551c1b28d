"""Plot loss and validation score of training runs over iterations or seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from nonlocalnet.training.runs import Run

NAMED = 3  # differing options that fit a legend


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet plot`."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or folders that contain runs."""
    out: Path = Path("curves.png")
    """File to write: .png, .pdf or .svg."""
    metric: str | None = None
    """Validation score, such as mean_class; default: top-1, mAP, or COCO's AP."""
    x: Literal["iteration", "seconds"] = "iteration"
    """Horizontal axis."""


def command(options: Options) -> int:
    if not options.runs:
        raise ValueError("name at least one run: nonlocalnet plot RUN [RUN ...]")
    if options.out.suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--out must end in .png, .pdf or .svg; got {options.out}")

    from nonlocalnet.training.runs import check_metric, find_runs

    runs = find_runs(options.runs)
    check_metric(runs, options.metric)

    from nonlocalnet.inspection.curves import Line, panels
    from nonlocalnet.runtime.log import console, status

    lines: dict[str, dict[str, Line]] = {"training loss": {}}
    for run, label in zip(runs, _labels(runs), strict=True):
        loss = run.points(options.x, "loss")
        for note in run.notes:
            status.print(f"{run.name}: {note}", soft_wrap=True)
        if not loss[0]:
            status.print(f"{run.name}: no loss over {options.x}, left out", soft_wrap=True)
            continue
        lines["training loss"][label] = loss
        if metric := run.metric(options.metric):
            points = run.points(options.x, metric.name)
            lines.setdefault(f"validation {metric.label}, %", {})[label] = points
        elif run.scores:
            unknown = f"no known score in its validation ({', '.join(run.scores)}), left out"
            status.print(f"{run.name}: {unknown}", soft_wrap=True)
    if not lines["training loss"]:
        raise ValueError(f"no run has a loss over {options.x}; there is nothing to plot")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    xlabel = "seconds since the start" if options.x == "seconds" else "iteration"
    panels(lines, xlabel=xlabel).savefig(options.out)
    console.print(str(options.out), soft_wrap=True)
    return 0


def _labels(runs: list[Run]) -> list[str]:
    """Name runs, each with the options that distinguish it."""
    from nonlocalnet.training.runs import differing

    names = differing(runs)[:NAMED]
    labels = []
    for run in runs:
        told = [
            f"{name} {run.options[name]}" for name in names if run.options.get(name) is not None
        ]
        labels.append(f"{run.name} ({', '.join(told)})" if told else run.name)
    return labels
