"""What a test leaves: predictions, accuracy per class and confusions as tables, scores as JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nonlocalnet.data.datasets import VideoRecord
from nonlocalnet.evaluation.metrics import (
    average_precision,
    confusion_matrix,
    find_metric,
    wilson_interval,
)
from nonlocalnet.evaluation.multiview import Predictions

LABELED = ("video", "labels", "label_names", "predicted_label", "predicted")


def per_class(
    predictions: Predictions, names: Sequence[str], *, multi_label: bool
) -> list[dict[str, Any]]:
    """Score every class, the worst first: rows of class, videos and top1, or with many labels ap.

    Percent; None for a class without videos, at the end. One label a video: `confused_with` is the
    class that most of its videos are wrongly given.
    """
    p, target = predictions.probabilities, predictions.target
    score = "ap" if multi_label else "top1"
    rows: list[dict[str, Any]] = []
    if multi_label:
        for k, name in enumerate(names):
            videos = int(target[:, k].sum())
            ap = 100 * average_precision(p[:, k], target[:, k]) if videos else None
            rows.append({"class": name, "videos": videos, "ap": ap})
    else:
        counts = confusion_matrix(p, target)
        wrong = counts.clone().fill_diagonal_(0)
        for k, name in enumerate(names):
            videos = int(counts[k].sum())
            top1 = 100 * counts[k, k].item() / videos if videos else None
            confused = names[int(wrong[k].argmax())] if wrong[k].any() else ""
            rows.append({"class": name, "videos": videos, "top1": top1, "confused_with": confused})
    return sorted(rows, key=lambda row: (row[score] is None, row[score] or 0.0, row["class"]))


def most_confused(counts: Tensor, top: int = 5) -> list[tuple[int, int, int]]:
    """List the likeliest confusions of a confusion matrix: (class, taken for, videos), at most top.

    >>> import torch
    >>> most_confused(torch.tensor([[5, 2, 0], [1, 6, 0], [0, 3, 4]]), top=2)
    [(2, 1, 3), (0, 1, 2)]
    """
    wrong = counts.clone().fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:top].tolist()
    pairs = [(flat // len(wrong), flat % len(wrong)) for flat in order]
    return [(i, j, int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


@dataclass(frozen=True)
class Mistake:
    """A video whose likeliest class is not a label of it: its labels, that class, and its p."""

    video: str
    labels: tuple[int, ...]
    predicted: int
    probability: float


def find_mistakes(predictions: Predictions, records: Sequence[VideoRecord]) -> list[Mistake]:
    """List the videos whose likeliest class is not a label of theirs, the most certain first.

    Videos without any label are left out.
    """
    found = []
    for index, p in zip(predictions.indices.tolist(), predictions.probabilities, strict=True):
        record, winner = records[index], int(p.argmax())
        if record.labels and winner not in record.labels:
            found.append(Mistake(record.name, record.labels, winner, float(p[winner])))
    return sorted(found, key=lambda mistake: -mistake.probability)


def find_intervals(scores: dict[str, float], videos: int) -> dict[str, tuple[float, float]]:
    """Compute the 95% interval, percent, of the scores that are shares of videos."""
    found = {}
    for name, value in scores.items():
        if find_metric(name).proportion:
            low, high = wilson_interval(value / 100, videos)
            found[name] = (100 * low, 100 * high)
    return found


def write_results(
    out: Path,
    predictions: Predictions,
    records: Sequence[VideoRecord],
    names: Sequence[str],
    facts: dict[str, Any],
    *,
    multi_label: bool,
) -> None:
    """Write a folder of predictions.csv, wrong.csv, per_class.csv, confusion.csv and scores.json.

    There is no confusion.csv of many labels.

    An `out` that ends in .csv is the predictions alone, one in .json the scores alone.
    """
    files: dict[str, Callable[[Path], None]] = {
        "predictions.csv": lambda path: _write_predictions(path, predictions, records, names),
        "wrong.csv": lambda path: _write_mistakes(path, find_mistakes(predictions, records), names),
        "per_class.csv": lambda path: _write_per_class(
            path, per_class(predictions, names, multi_label=multi_label)
        ),
        "scores.json": lambda path: _write_json(path, facts),
    }
    if not multi_label:
        counts = confusion_matrix(predictions.probabilities, predictions.target)
        files["confusion.csv"] = lambda path: _write_confusion(path, counts, names)
    alone = {".csv": "predictions.csv", ".json": "scores.json"}.get(out.suffix)
    folder = out if alone is None else out.parent
    folder.mkdir(parents=True, exist_ok=True)
    if alone is not None:
        files[alone](out)
        return
    for name, write in files.items():
        write(folder / name)


def _write_predictions(
    path: Path, predictions: Predictions, records: Sequence[VideoRecord], names: Sequence[str]
) -> None:
    rows = []
    for index, p in zip(predictions.indices.tolist(), predictions.probabilities, strict=True):
        record, winner = records[index], int(p.argmax())
        given = _label_cells(record.labels, names)
        numbers = (f"{value:.6f}" for value in p.tolist())
        rows.append([record.name, *given, winner, names[winner], *numbers])
    _write_csv(path, [*LABELED, *names], rows)


def _write_mistakes(path: Path, mistakes: Sequence[Mistake], names: Sequence[str]) -> None:
    rows = [
        [
            mistake.video,
            *_label_cells(mistake.labels, names),
            mistake.predicted,
            names[mistake.predicted],
            f"{mistake.probability:.6f}",
        ]
        for mistake in mistakes
    ]
    _write_csv(path, [*LABELED, "probability"], rows)


def _label_cells(labels: Sequence[int], names: Sequence[str]) -> tuple[str, str]:
    """Give labels as numbers and as names."""
    return " ".join(map(str, labels)), "; ".join(names[label] for label in labels)


def _write_per_class(path: Path, rows: list[dict[str, Any]]) -> None:
    cells = [
        [f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row.values()]
        for row in rows
    ]
    _write_csv(path, list(rows[0]), cells)


def _write_confusion(path: Path, counts: Tensor, names: Sequence[str]) -> None:
    rows = [[name, *row] for name, row in zip(names, counts.tolist(), strict=True)]
    _write_csv(path, ["class / predicted", *names], rows)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    # the names of files need not be UTF-8
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([header, *rows])


def _write_json(path: Path, facts: dict[str, Any]) -> None:
    path.write_text(json.dumps(facts, indent=2) + "\n")
