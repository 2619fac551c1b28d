"""Text lists of videos and labels, as the official code and MMAction2 have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nonlocalnet.data.find_videos import find_listed
from nonlocalnet.data.formats import charades
from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.formats.rows import Row, read_rows
from nonlocalnet.data.formats.text import read_names
from nonlocalnet.data.suffixes import is_video
from nonlocalnet.errors import shown

TRAIN = ("train", "trainlist")
VAL = ("val", "vallist", "validation", "validate")
MOST_DIGITS = 19  # of a label


def matches(source: Source) -> bool:
    """Whether the source is a file, or a folder with train.txt or val.txt (.csv)."""
    return not source.path.is_dir() or _find(source, TRAIN + VAL) is not None


def read(source: Source) -> Annotations:
    """Read one list, or train.txt, val.txt and classes.txt; either list may be a Charades table.

    A line is "PATH LABEL", as the official code's, or "DIR NUM_FRAMES LABEL". LABEL is the last
    word, so PATH may hold spaces; "1,5,7" gives several labels, "-" none, and after the suffix of
    a video "1 5 7" does, too. Columns may be separated
    by commas, semicolons or tabs, fields may be quoted, and a first line may name the columns. A
    relative path starts at the root, by default the list's folder.

    DIR is a folder of numbered pictures. All frames in it are used: NUM_FRAMES only distinguishes
    such a list from one of videos whose names end in a number, and `data check` compares it.

    Raises:
        ValueError: a line has another form, or the list is empty.
    """
    if not source.path.is_dir():
        return _read_list(source)
    index, names = source.path / "classes.txt", source.classes
    if names is None and index.exists():
        names = read_names(index)
    train, val = (
        None if file is None else _read_list(replace(source, path=file, classes=names))
        for file in (_find(source, TRAIN), _find(source, VAL))
    )
    first = train or val
    assert first is not None, "read without matches"
    return replace(
        first,
        train=train.train if train else [],
        val=val.train if val else [],
        classes=None if names is None else list(names),
        multi_label=any(part.multi_label for part in (train, val) if part),
    )


def _find(source: Source, names: Sequence[str]) -> Path | None:
    files = (source.path / (name + suffix) for name in names for suffix in (".txt", ".csv"))
    return next((file for file in files if file.is_file()), None)


def _read_list(source: Source) -> Annotations:
    if charades.matches(source):
        return charades.read(source)
    file = source.path
    if is_video(file.name):
        raise ValueError(f"{file} is a video: name a folder of videos, or a list of them")
    rows = read_rows(file)
    if not rows:
        raise ValueError(f"{file}: the list is empty")
    base = source.root or source.folder
    counts_frames = _counts_frames(rows, base)
    entries = []
    for row in rows:
        labels = _read_labels(row.labels)
        if labels is None or not row.path:
            raise ValueError(
                f'{row.where}: expected "PATH LABEL" with a whole number, or several joined by '
                f'commas, or "DIR NUM_FRAMES LABEL", got {shown(row.text)}'
            )
        name, count = row.path, None
        if counts_frames and row.folder is not None:
            name, count = row.folder
        entries.append(Entry(name, labels, base / name, row.where, count))
    paths = find_listed([base / entry.name for entry in entries])
    found = [replace(entry, path=path) for entry, path in zip(entries, paths, strict=True)]
    return Annotations(found, [], None if source.classes is None else list(source.classes))


def _counts_frames(rows: Sequence[Row], base: Path) -> bool:
    """Whether a number before the label counts frames, and is not the end of a video's name."""
    folders = [row.folder[0] for row in rows if row.folder is not None]
    return any((base / path).is_dir() for path in folders) or len(folders) == len(rows)


def _read_labels(words: Sequence[str]) -> tuple[int, ...] | None:
    if list(words) == ["-"]:
        return ()
    if not all(word.isascii() and word.isdigit() and len(word) < MOST_DIGITS for word in words):
        return None
    return tuple(sorted({int(word) for word in words}))
