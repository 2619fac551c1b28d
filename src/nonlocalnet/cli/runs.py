"""Compare training runs: progress, scores, and the options in which they differ; best first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet runs`."""

    folder: tyro.conf.Positional[Path] = Path("runs")
    """Folder that contains runs of `nonlocalnet train`, at any depth."""
    metric: str | None = None
    """Score to compare by, such as mean_class; default: top-1, mAP, or COCO's AP."""
    json: bool = False
    """Print JSON instead of a table."""


def command(options: Options) -> int:
    from nonlocalnet.training.runs import check_metric, differing, find_runs

    runs = find_runs([options.folder])
    check_metric(runs, options.metric)
    others = [name for name in differing(runs) if name != "model"]
    rows: list[dict[str, Any]] = [
        run.summary(options.metric) | {"options": {name: run.options.get(name) for name in others}}
        for run in runs
    ]
    # runs without a score last; those with another score together
    rows.sort(key=lambda row: (row["best"] is None, row["score"] or "", _rank(row)))
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        _print(rows, others)
    return 0


def _rank(row: dict[str, Any]) -> float:
    from nonlocalnet.evaluation.metrics import find_metric

    if row["best"] is None:
        return 0.0
    return -row["best"] if find_metric(row["score"]).higher else row["best"]


def _print(rows: list[dict[str, Any]], others: list[str]) -> None:
    from rich.table import Table

    from nonlocalnet.options import Rule
    from nonlocalnet.runtime.log import print_table
    from nonlocalnet.training.config import RULES

    notes = ["notes"] if any(row["notes"] for row in rows) else []
    scores = ("best", "last", "loss", "items/s")  # clips or images
    others = [name for name in others if RULES.get(name, Rule()).compared == "table"]
    table = Table("run", "model", *others, "iteration", *scores, *notes)
    for row in rows:
        cells = [
            row["name"],
            row["model"] or "–",
            *("–" if row["options"][k] is None else _text(row["options"][k]) for k in others),
            f"{row['iteration']}/{row['iterations'] or '?'}",
            "–" if row["best"] is None else f"{row['best']:.1f} {row['score']}",
            _number(row["last"], 1),
            _number(row["loss"], 3),
            _number(row["clips_per_second"] or row["images_per_second"], 1),
            *(["; ".join(row["notes"])] if notes else []),
        ]
        table.add_row(*cells)
    print_table(table)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
