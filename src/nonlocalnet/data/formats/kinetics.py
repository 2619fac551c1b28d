"""Kinetics-400, -600 and -700."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.formats.text import open_table, read_columns
from nonlocalnet.errors import shown

TIMES = {"youtube_id", "time_start", "time_end"}
SPLITS = ("train", "val", "test")


def matches(source: Source) -> bool:
    """Whether there are tables with Kinetics' columns, here or in annotations/."""
    return any("label" in read_columns(table) or table == source.path for table in _tables(source))


def read(source: Source) -> Annotations:
    """Read tables of label,youtube_id,time_start,time_end[,split[,is_cc]].

    A video is ID_SSSSSS_EEEEEE or ID, with any suffix; of several, one below folders of its split
    and label. The split is the column's, else the table's name says it. Test rows are not used,
    and need no label. Classes are in alphabetical order.

    Raises:
        ValueError: a field is missing, times are no numbers, or the split has another name.
    """
    splits: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for table in _tables(source):
        rows = open_table(table)
        for row in rows:
            where = f"{table}:{rows.line_num}"
            text = row.get("split") or table.stem
            split = next((split for split in SPLITS if split in text.lower()), None)
            if split is None:
                raise ValueError(
                    f"{where}: the split must be train, val(idate) or test, got {shown(text)}"
                )
            splits[split].append(_entry(row, split, where, source))
    train, val, test = splits.values()
    classes = sorted({str(entry.label) for entry in train + val})
    return Annotations(train, val, classes, test=test)


def _tables(source: Source) -> Iterator[Path]:
    if source.path.is_file():
        if read_columns(source.path) >= TIMES:
            yield source.path
        return
    for folder in (source.path, source.path / "annotations"):
        for table in sorted(folder.glob("*.csv")):
            if read_columns(table) >= TIMES:
                yield table


def _entry(row: dict[str, str], split: str, where: str, source: Source) -> Entry:
    name, label = row["youtube_id"], (row.get("label") or "").strip()
    if not name or not (label or split == "test"):
        raise ValueError(f"{where}: label or youtube_id is missing in {row}")
    try:
        start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
    except (TypeError, ValueError):
        raise ValueError(
            f"{where}: time_start and time_end must be seconds, got "
            f"{shown(row['time_start'])} and {shown(row['time_end'])}"
        ) from None
    clip = f"{name}_{start:06d}_{end:06d}"
    folders = [label, split] + ["validate", "validation"] * (split == "val")
    path = source.videos.find(clip, *folders) or source.videos.find(name, *folders)
    return Entry(clip, label, path, where)
