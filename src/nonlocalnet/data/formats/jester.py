"""Jester and Something-Something v1: folders of frames."""

from __future__ import annotations

from pathlib import Path

from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.formats.text import read_lines, read_names
from nonlocalnet.errors import shown


def matches(source: Source) -> bool:
    """Whether PREFIX-v1-train.csv and PREFIX-v1-labels.csv are there."""
    train = source.find_file("*-v1-train.csv")
    return train is not None and _beside(train, "labels").exists()


def read(source: Source) -> Annotations:
    """Read "ID;LABEL" a line, and the labels, one a line; a video is a folder ID, or a file.

    Labels say left and right, so that videos cannot be mirrored.

    Raises:
        ValueError: a line has another form.
    """
    train = source.find_file("*-v1-train.csv")
    assert train is not None, "read without matches"
    val = _beside(train, "validation")
    held_out = _read_list(val, source) if val.exists() else []
    classes = read_names(_beside(train, "labels"))
    return Annotations(_read_list(train, source), held_out, classes, mirrored=False)


def _beside(train: Path, part: str) -> Path:
    return train.with_name(train.name.removesuffix("train.csv") + f"{part}.csv")


def _read_list(file: Path, source: Source) -> list[Entry]:
    entries = []
    for where, line in read_lines(file):
        name, mark, label = line.partition(";")
        if not mark or not name:
            raise ValueError(f'{where}: expected "ID;LABEL", got {shown(line)}')
        entries.append(Entry(name, label.strip(), source.videos.find(name), where))
    return entries
