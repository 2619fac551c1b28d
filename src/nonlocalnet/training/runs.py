"""Read the folders of training runs and compare them; half-written files are no error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nonlocalnet.errors import option
from nonlocalnet.evaluation.metrics import Metric, find_metric, main_metric
from nonlocalnet.options import Rule
from nonlocalnet.runtime.log import is_number, read_lines
from nonlocalnet.training.config import RULES

PLACE = ("kind", "iteration", "seconds", "unreadable")  # in a line; other entries are measured


@dataclass
class Run:
    """A run: name of its folder, options, lines of its log, and notes on what could not be read."""

    name: str
    options: dict[str, Any]
    train: list[dict[str, Any]]
    val: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    @property
    def main_metric(self) -> Metric | None:
        """The metric that runs are compared by; None if the run has none yet."""
        return main_metric(name for name in self.scores if self.values(name))

    @property
    def scores(self) -> list[str]:
        """Names of the metrics in its validation lines."""
        return list(dict.fromkeys(name for line in self.val for name in line if name not in PLACE))

    def values(self, name: str) -> list[float]:
        """Return the numbers of that name, from training or validation, in the order written."""
        return self.points("iteration", name)[1]

    def points(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """Return the numbers x ("iteration" or "seconds") and y of the lines that have both."""
        lines = [line for line in self.train + self.val if _number(line, x) and _number(line, y)]
        return [line[x] for line in lines], [line[y] for line in lines]

    def metric(self, name: str | None = None) -> Metric | None:
        """Return the metric of that name if the run has it; without a name, the main one."""
        if name is None:
            return self.main_metric
        return find_metric(name) if self.values(name) else None

    def summary(self, metric_name: str | None = None) -> dict[str, Any]:
        """Summarize progress and results in plain values; None for what is unknown.

        Args:
            metric_name: of the score; default: the metric that runs are compared by.
        """
        metric = self.metric(metric_name)
        scores = self.values(metric.name) if metric else []
        return {
            "name": self.name,
            "model": self.options.get("model"),
            "iteration": max(map(int, self.values("iteration")), default=0),
            "iterations": self.options.get("iterations"),
            "score": metric and metric.name,
            "best": metric and metric.best(scores),
            "last": scores[-1] if scores else None,
            "loss": _last(self.values("loss")),
            "clips_per_second": _last(self.values("clips_per_second")),
            "images_per_second": _last(self.values("images_per_second")),
            "notes": self.notes,
        }


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """Read all runs in folders and their subfolders: those with a config.json or a metrics.jsonl.

    The name of a run is its path relative to the given folder; if that is the run itself, its name.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
    """
    runs: dict[Path, Run] = {}
    folders = list(folders)
    for folder in folders:
        files = [path for name in ("config.json", "metrics.jsonl") for path in folder.rglob(name)]
        found = sorted({path.parent for path in files})
        if not found and folder.is_dir() and len(folders) > 1:
            continue  # a run that was refused before it started
        if not found:
            raise FileNotFoundError(
                f"no run in {folder}: name a folder that holds runs of nonlocalnet train"
                if folder.is_dir()
                else f"no folder {folder}: name one that holds runs of nonlocalnet train"
            )
        for path in found:
            name = path.resolve().name if path == folder else path.relative_to(folder).as_posix()
            if not any(path.samefile(other) for other in runs):
                runs[path] = read_run(path, name)
    if not runs:
        raise FileNotFoundError(f"no run in any of {len(folders)} folders")
    names = Counter(run.name for run in runs.values())
    for path, run in runs.items():
        if names[run.name] > 1:  # of several folders
            run.name = path.as_posix()
    return list(runs.values())


def read_run(folder: Path, name: str) -> Run:
    """Read config.json and metrics.jsonl of one run; note what is missing or damaged."""
    notes, options = [], {}
    try:
        options = json.loads((folder / "config.json").read_text())
        if not isinstance(options, dict):
            raise ValueError("not a table")
    except FileNotFoundError:
        notes.append("no config.json")
    except (OSError, ValueError, RecursionError):
        notes.append("config.json is damaged")
        options = {}
    lines: list[dict[str, Any]] = []
    try:
        lines, damaged = read_lines(folder / "metrics.jsonl")
        if damaged:
            notes.append(f"metrics.jsonl: {damaged} damaged line{'s' if damaged > 1 else ''}")
        elif not lines:
            notes.append("metrics.jsonl is empty")
    except FileNotFoundError:
        notes.append("no metrics.jsonl")
    except OSError as error:
        notes.append(f"metrics.jsonl: {error.strerror}")
    train, val = ([line for line in lines if line["kind"] == kind] for kind in ("train", "val"))
    known = [line for line in train if _number(line, "iteration") and _number(line, "seconds")]
    for line in val:
        if known and _number(line, "iteration") and not _number(line, "seconds"):
            import numpy as np

            iterations, seconds = ([k[x] for k in known] for x in ("iteration", "seconds"))
            line["seconds"] = float(np.interp(line["iteration"], iterations, seconds))
    return Run(name, options, train, val, notes)


def check_metric(runs: Iterable[Run], name: str | None) -> None:
    """Refuse a metric that no run has.

    Raises:
        ValueError: none has; the message lists those that there are.
    """
    there = dict.fromkeys(score for run in runs for score in run.scores)
    if name is not None and name not in there:
        raise ValueError(
            f"no run has {option('metric', name)}; "
            + (f"there are {', '.join(there)}" if there else "none was validated yet")
        )


def differing(runs: Sequence[Run]) -> list[str]:
    """List the options that differ among the runs whose options are known.

    >>> one = Run("a", {"lr": 0.1, "seed": 0, "out": "a"}, [], [])
    >>> differing([one, Run("b", {"lr": 0.2, "seed": 0, "out": "b"}, [], [])])
    ['lr']
    """
    tables = [run.options for run in runs if run.options]
    names = dict.fromkeys(name for table in tables for name in table)
    return [
        name
        for name in names
        if RULES.get(name, Rule()).compared != "nowhere"
        and any(t.get(name) != tables[0].get(name) for t in tables)
    ]


def _number(line: dict[str, Any], name: str) -> bool:
    return is_number(line.get(name))


def _last(values: list[float]) -> float | None:
    return values[-1] if values else None
