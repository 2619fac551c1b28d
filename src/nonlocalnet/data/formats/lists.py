"""Text lists of videos and labels, as the official code and MMAction2 have them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nonlocalnet.data.find_videos import find_listed, name_some
from nonlocalnet.data.formats import charades
from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.formats.rows import Row, is_label, read_rows, split_labels
from nonlocalnet.data.formats.text import read_names
from nonlocalnet.data.suffixes import is_video
from nonlocalnet.errors import FileError, option, shown

TRAIN = ("train", "trainlist")
VAL = ("val", "vallist", "validation", "validate")
TEST = ("test", "testlist")  # no command uses it; its lines may have no labels
MOST_DIGITS = 19  # of a label


def matches(source: Source) -> bool:
    """Whether the source is a file, or a folder with train.txt or val.txt (.csv)."""
    return not source.path.is_dir() or _find(source, TRAIN + VAL) is not None


def read(source: Source) -> Annotations:
    """Read one list, or train.txt, val.txt and classes.txt; either list may be a Charades table.

    A line is "PATH LABEL", as the official code's, or "DIR NUM_FRAMES LABEL". LABEL is a number;
    "1,5,7" gives several, "-" none, and after the suffix of a video or after NUM_FRAMES "1 5 7"
    does, too. Or all labels are names, which are numbered in alphabetical order. PATH may hold
    spaces. Columns may be separated by commas, semicolons or tabs, fields may be quoted, and a
    first line may name the columns. A relative path starts at the root, by default the list's
    folder.

    DIR is a folder of numbered pictures. All frames in it are used: NUM_FRAMES only distinguishes
    such a list from one of videos whose names end in a number, and `data check` compares it.

    Raises:
        ValueError: a line has another form, such as MMAction2's "DIR OFFSET NUM_FRAMES LABEL", or
            the list is empty.
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
    if names is None and (first.classes is not None or (val and val.classes)):
        if train and val and (train.classes is None) != (val.classes is None):
            raise ValueError(
                f"{source.path}: the labels of train and val are names in one and numbers in the "
                f"other: write the names in the order of their numbers in {index.name}"
            )
        names = sorted({name for part in (train, val) if part for name in part.classes or ()})
    test = _read_test(source)
    notes, listed = (), list(test)
    for name, part in (("train", train), ("val", val)):
        if part is not None:
            notes += tuple(f"{name}: {note}" for note in part.notes)
            listed += part.train
    notes += _note_unlisted(source, listed)
    return replace(
        first,
        train=train.train if train else [],
        val=val.train if val else [],
        classes=None if names is None else list(names),
        multi_label=any(part.multi_label for part in (train, val) if part),
        notes=notes,
        test=test,
    )


def _read_test(source: Source) -> list[Entry]:
    file = _find(source, TEST)
    if file is None:
        return []
    base = source.root or source.folder
    names = [(name, row) for row in read_rows(file) for name in (row.path, row.text) if name]
    paths = find_listed([base / name for name, _ in names])
    found = zip(names, paths, strict=True)
    return [Entry(name, (), path, row.where) for (name, row), path in found if path is not None]


def _note_unlisted(source: Source, listed: Sequence[Entry]) -> tuple[str, ...]:
    """Say how many videos of the folder are in no list: a class may vanish that way."""
    base = source.root or source.folder
    if not base.is_dir():
        return ()
    paths = {os.path.abspath(entry.path) for entry in listed if isinstance(entry.path, Path)}
    videos = [video for video in source.videos.videos if os.path.abspath(video) not in paths]
    names = [video.relative_to(base).as_posix() for video in videos]
    return (name_some("{} video{s} of the folder {is} in no list", names),) if names else ()


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
    folders = _counts_frames(rows, base)
    lines = [_choose(row, base, folders) for row in rows]
    named = all(map(_is_named, lines))
    entries = []
    for line in lines:
        label = line.label if named else _read_numbers(line.label)
        if label is None or not line.name:
            raise ValueError(
                f'{line.row.where}: expected "PATH LABEL" with a whole number, or several joined '
                'by commas, or "DIR NUM_FRAMES LABEL", or the same with class names in all lines, '
                "got "
                f"{shown(line.row.text)}"
            )
        if named and source.classes is None and re.search("[,;]", line.label):
            raise ValueError(
                f"{line.row.where}: {shown(line.label)} may be one class or several: give the "
                f"names of all classes with {option('classes')}, or write numbers"
            )
        entries.append(Entry(line.name, label, base / line.name, line.row.where, line.count))
    paths = find_listed([base / entry.name for entry in entries])
    found = [replace(entry, path=path) for entry, path in zip(entries, paths, strict=True)]
    names = source.classes
    if names is None and named:
        names = sorted({line.label for line in lines})
    notes = _check_counts(lines, found)
    if rows[0].unused:
        notes += (name_some("{} column{s} {is} not used", rows[0].unused),)
    return Annotations(found, [], None if names is None else list(names), notes=notes)


class _Line(NamedTuple):
    """A row in the chosen reading."""

    row: Row
    name: str
    label: str
    count: int | None = None


def _counts_frames(rows: Sequence[Row], base: Path) -> bool:
    """Whether a number before the label counts frames, and is not the end of a video's name."""
    folders = (base / folder.name for row in rows for folder in row.folders)
    return all(row.folders for row in rows) or any(folder.is_dir() for folder in folders)


def _choose(row: Row, base: Path, folders: bool) -> _Line:
    """Choose the reading as the folder that is there; if none is, as the shortest name."""
    if not (folders and row.folders):
        return _Line(row, row.path, row.label)
    there = (folder for folder in row.folders if (base / folder.name).is_dir())
    name, count, label = next(there, row.folders[-1])
    return _Line(row, name, label, count)


def _check_counts(lines: Sequence[_Line], entries: Sequence[Entry]) -> tuple[str, ...]:
    """Compare the number of frames of the first video that can be read: is it one?

    Lists of folders look alike whether they have two labels ("DIR NUM_FRAMES 1 5") or begin within
    a folder (MMAction2's "DIR OFFSET NUM_FRAMES LABEL"). In a list of files without suffixes,
    "PATH 1 5" may have two labels.

    Returns:
        A note, if a file has another number.

    Raises:
        ValueError: every line may have an offset, and the first one does not have its number; or
            every line of a list of files has two numbers, and the first is that of its frames.
    """
    if all(line.count is None and len(line.label.split()) == 2 for line in lines):
        for line, entry in zip(lines, entries, strict=True):
            frames = _count_frames(entry)
            if frames is not None and str(frames) == line.label.split()[0]:
                raise ValueError(
                    f"{entry.where}: {frames} in {shown(line.row.text)} is the number of frames, "
                    'not a label: write "PATH LABEL"'
                )
            if frames is not None:
                return ()
    counted = [pair for pair in zip(lines, entries, strict=True) if pair[0].count is not None]
    similar = bool(counted) and all(_has_several(line) for line, _ in counted)
    for line, entry in counted:
        if not similar and entry.path is not None and entry.path.is_dir():
            continue
        frames = _count_frames(entry)
        if frames is None:
            continue
        if line.count == frames:
            return ()
        if similar:
            raise ValueError(
                f"{entry.where}: {line.count} in {shown(line.row.text)} is not the number of "
                f'frames, {frames}: lists with offsets ("DIR OFFSET NUM_FRAMES LABEL") are not '
                "read, make a folder of each part; join several labels by commas "
                '("DIR NUM_FRAMES 1,5")'
            )
        return (
            f"{entry.name} has {frames} frames, its line says {line.count}: a number before the "
            "label is taken for that of the frames; join several labels by commas",
        )
    return ()


def _count_frames(entry: Entry) -> int | None:
    """Count the frames of a video; None if it is missing or cannot be read."""
    if entry.path is None:
        return None
    from nonlocalnet.data.video.reader import open_reader

    try:
        with open_reader(entry.path) as video:
            return video.num_frames
    except FileError:
        return None


def _has_several(line: _Line) -> bool:
    words = line.label.split()
    return len(words) > 1 and all(map(is_label, words))


def _is_named(line: _Line) -> bool:
    """Whether the label is a name: it begins with a letter, and is not a second path."""
    return bool(line.name) and line.label[:1].isalpha() and not is_video(line.label)


def _read_numbers(label: str) -> tuple[int, ...] | None:
    words = split_labels(label)
    if words == ("-",):
        return ()
    if not all(word.isascii() and word.isdigit() and len(word) < MOST_DIGITS for word in words):
        return None
    return tuple(sorted({int(word) for word in words}))
