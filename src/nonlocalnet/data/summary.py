"""What a checked data set holds, in few rows: videos, durations, sizes and classes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from nonlocalnet.data.check import CheckReport, FileReport
from nonlocalnet.data.datasets import VideoSplits
from nonlocalnet.data.formats.lists import VideoRecord
from nonlocalnet.errors import printable

SHOWN = 20  # classes of a table: the first in the order of their labels
NAME = 30  # characters of a class name


def split_rows(data: VideoSplits, report: CheckReport) -> list[tuple[str, ...]]:
    """Describe each split: its name, videos, classes, frames, seconds and sizes.

    Frames and seconds are the shortest, median and longest video's; of sizes the commonest comes
    first. Videos that cannot be read count as videos alone.
    """
    return [
        _row(name, records, [report.files[str(record.path)] for record in records])
        for name, records in splits_of(data)
    ]


def _row(name: str, records: Sequence[VideoRecord], files: Sequence[FileReport]) -> tuple[str, ...]:
    classes = {label for record in records for label in record.labels}
    sizes = Counter((file.width, file.height) for file in files if file.width)
    (commonest, count), *others = sizes.most_common() or [((0, 0), 0)]
    shown = f"{commonest[0]}x{commonest[1]}" if count else "–"
    if others:
        shown += f" ({count}) and {len(others)} more"
    return (
        name,
        str(len(records)),
        str(len(classes)),
        _spread([file.frames for file in files if file.frames], "{:.0f}"),
        _spread([file.seconds for file in files if file.seconds], "{:.1f}"),
        shown,
    )


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "–"
    found = (min(values), statistics.median(values), max(values))
    return " / ".join(form.format(value) for value in found)


def class_rows(data: VideoSplits) -> tuple[list[tuple[str, ...]], int]:
    """Count the videos of each class in each split: (rows, how many classes are not among them).

    A row is a label, its name, and a count for each split.
    """
    counts = [Counter(k for record in part for k in record.labels) for _, part in splits_of(data)]
    rows: list[tuple[str, ...]] = [
        (str(label), _short(name), *(str(count[label]) for count in counts))
        for label, name in enumerate(data.classes[:SHOWN])
    ]
    return rows, len(data.classes) - len(rows)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def splits_of(data: VideoSplits) -> list[tuple[str, list[VideoRecord]]]:
    """Name the splits that there are."""
    return [("train", data.train)] + ([] if data.val is None else [("val", data.val)])
