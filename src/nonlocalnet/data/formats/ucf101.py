"""UCF101."""

from __future__ import annotations

from pathlib import Path

from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.formats.text import read_lines
from nonlocalnet.errors import shown


def matches(source: Source) -> bool:
    """Whether classInd.txt is there."""
    return source.find_file("classInd.txt") is not None


def read(source: Source) -> Annotations:
    """Read classInd.txt ("1 ApplyEyeMakeup"), trainlist01.txt and testlist01.txt, or 02, 03.

    A video's class is its folder. Only the training list has labels, from 1 on.

    Raises:
        ValueError: there is no such split, a line has another form, or its label is that of
            another class.
    """
    index = source.find_file("classInd.txt")
    assert index is not None, "read without matches"
    train, test = (
        index.with_name(f"{part}list{source.split:02d}.txt") for part in ("train", "test")
    )
    source.check_split(train)
    classes: list[str] = []
    for where, line in read_lines(index):
        number, _, name = line.partition(" ")
        classes.append(name.strip())
        if number != str(len(classes)) or not name:
            raise ValueError(f'{where}: expected "{len(classes)} CLASS", got {shown(line)}')

    def read_list(file: Path) -> list[Entry]:
        entries = []
        for where, line in read_lines(file):
            name, *label = line.split()
            video = Path(name)
            known = video.parent.name
            if not known or len(label) > 1:
                raise ValueError(f'{where}: expected "CLASS/VIDEO LABEL", got {shown(line)}')
            if label and (known, label[0]) not in labels:
                raise ValueError(f"{where}: label {label[0]} is not that of {known!r} in {index}")
            entries.append(Entry(name, known, source.videos.find(video.stem, known), where))
        return entries

    labels = {(name, str(i)) for i, name in enumerate(classes, 1)}
    return Annotations(read_list(train), read_list(test), classes)
