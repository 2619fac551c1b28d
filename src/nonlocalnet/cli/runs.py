"""Compare training runs: how far, how well, and the options in which they differ; best first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from nonlocalnet.runtime.log import print_table
from nonlocalnet.training.runs import differing, find_runs

# what tells little of two runs apart; --json has all
LEFT_OUT = {
    *("workers", "cache", "max_bad", "log_every", "eval_every", "checkpoint_every", "keep"),
    *("device", "accumulate", "recompute", "tensorboard", "look", "look_at", "recipe"),
    *("reference_batch", "test_side", "lr_steps", "precise_norm"),
}


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet runs`."""

    folder: tyro.conf.Positional[Path] = Path("runs")
    """Holds runs of `nonlocalnet train`, at any depth."""
    json: bool = False
    """Print JSON instead of a table."""


def command(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    runs = find_runs([options.folder])
    others = [name for name in differing(runs) if name != "model"]
    rows: list[dict[str, Any]] = [
        run.summary() | {"options": {name: run.options.get(name) for name in others}}
        for run in runs
    ]
    # runs without a score last; those of another score stand together
    rows.sort(key=lambda row: (row["best"] is None, row["score"] or "", -(row["best"] or 0.0)))
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(_table(rows, others))
    return 0


def _table(rows: list[dict[str, Any]], others: list[str]) -> Table:
    notes = ["notes"] if any(row["notes"] for row in rows) else []
    scores = ("best", "last", "loss", "items/s")  # clips or images
    others = [name for name in others if name not in LEFT_OUT]
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
    return table


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
