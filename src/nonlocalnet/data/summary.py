"""Summarize a checked data set in tables: videos, durations, sizes and classes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from nonlocalnet.data.check import CheckReport, FileReport
from nonlocalnet.data.datasets import VideoRecord, VideoSplits
from nonlocalnet.errors import printable

SHOWN = 20  # classes of a table: the first in the order of their labels
NAME = 30  # characters of a class name


def split_rows(data: VideoSplits, report: CheckReport) -> list[tuple[str, ...]]:
    """Describe each split: its name, videos, classes, frames, seconds and sizes.

    Frames and seconds are those of the shortest, median and longest video; the most frequent size
    comes first. Videos that cannot be read are counted as videos only.
    """
    return [
        _row(name, records, [report.files[str(record.path)] for record in records])
        for name, records in data.splits.items()
    ]


def _row(name: str, records: Sequence[VideoRecord], files: Sequence[FileReport]) -> tuple[str, ...]:
    classes = {label for record in records for label in record.labels}
    sizes = Counter((file.width, file.height) for file in files if file.width)
    size = "–"
    if sizes:
        ((width, height), count), *others = sizes.most_common()
        size = f"{width}x{height}" + (f" ({count}) and {len(others)} more" if others else "")
    return (
        name,
        str(len(records)),
        str(len(classes)),
        _spread([file.frames for file in files if file.frames], "{:.0f}"),
        _spread([file.seconds for file in files if file.seconds], "{:.1f}"),
        size,
    )


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "–"
    found = (min(values), statistics.median(values), max(values))
    return " / ".join(form.format(value) for value in found)


def class_rows(data: VideoSplits) -> tuple[list[tuple[str, ...]], int]:
    """Count the videos of each class in each split.

    Returns:
        Rows of a label, its name and a count for each split; and how many classes have no row.
    """
    counts = [Counter(k for record in part for k in record.labels) for part in data.splits.values()]
    rows: list[tuple[str, ...]] = [
        (str(label), _short(name), *(str(count[label]) for count in counts))
        for label, name in enumerate(data.classes[:SHOWN])
    ]
    return rows, len(data.classes) - len(rows)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"
