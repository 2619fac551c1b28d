"""What the folders of training runs say, side by side; half-written files are no error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nonlocalnet.evaluation.scores import Score, main_score
from nonlocalnet.runtime.log import is_number, read_lines

PLACE = ("kind", "iteration", "seconds", "unreadable")  # of a line; the others are measured
NOT_COMPARED = ("out", "resume")  # differ as a matter of course


@dataclass
class Run:
    """A run: its folder's name, its options, the lines of its log, and what could not be read."""

    name: str
    options: dict[str, Any]
    train: list[dict[str, Any]]
    val: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    @property
    def main_score(self) -> Score | None:
        """The score that runs are compared by; None where there is none yet."""
        return main_score(name for name in self.scores if self.values(name))

    @property
    def scores(self) -> list[str]:
        """Names of what its validation lines hold beside the place in the run."""
        return list(dict.fromkeys(name for line in self.val for name in line if name not in PLACE))

    def values(self, name: str) -> list[float]:
        """Give the numbers of that name, from training or validation, in the order written."""
        return self.points("iteration", name)[1]

    def points(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """Give the numbers y over x ("iteration" or "seconds"), where a line has both."""
        lines = [line for line in self.train + self.val if _number(line, x) and _number(line, y)]
        return [line[x] for line in lines], [line[y] for line in lines]

    def summary(self) -> dict[str, Any]:
        """Say how far it came and how well: plain values, None for what is unknown."""
        score = self.main_score
        scores = self.values(score.name) if score else []
        return {
            "name": self.name,
            "model": self.options.get("model"),
            "iteration": max(map(int, self.values("iteration")), default=0),
            "iterations": self.options.get("iterations"),
            "score": score and score.name,
            "best": score and score.best(scores),
            "last": scores[-1] if scores else None,
            "loss": _last(self.values("loss")),
            "clips_per_second": _last(self.values("clips_per_second")),
            "images_per_second": _last(self.values("images_per_second")),
            "notes": self.notes,
        }


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """Read the runs at and below folders: each folder with a config.json or a metrics.jsonl.

    Names are relative to the folder given, a run that is named itself is called as its folder.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
    """
    runs: dict[Path, Run] = {}
    folders = list(folders)
    for folder in folders:
        files = [path for name in ("config.json", "metrics.jsonl") for path in folder.rglob(name)]
        found = sorted({path.parent for path in files})
        if not found and folder.is_dir() and len(folders) > 1:
            continue  # a run that was refused before it began
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
    """Read config.json and metrics.jsonl of one run; what is missing or damaged becomes a note."""
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
            iterations, seconds = ([k[x] for k in known] for x in ("iteration", "seconds"))
            line["seconds"] = float(np.interp(line["iteration"], iterations, seconds))
    return Run(name, options, train, val, notes)


def differing(runs: Sequence[Run]) -> list[str]:
    """Name the options that are not the same in all runs that say their options.

    >>> one = Run("a", {"lr": 0.1, "seed": 0, "out": "a"}, [], [])
    >>> differing([one, Run("b", {"lr": 0.2, "seed": 0, "out": "b"}, [], [])])
    ['lr']
    """
    tables = [run.options for run in runs if run.options]
    names = dict.fromkeys(name for table in tables for name in table)
    return [
        name
        for name in names
        if name not in NOT_COMPARED and any(t.get(name) != tables[0].get(name) for t in tables)
    ]


def _number(line: dict[str, Any], name: str) -> bool:
    return is_number(line.get(name))


def _last(values: list[float]) -> float | None:
    return values[-1] if values else None
