"""The formats of video data sets, one module each.

A format is a module with two functions:

    matches(source: Source) -> bool      # are this format's files there? Reads no more than names
                                         # and first lines.
    read(source: Source) -> Annotations  # raises ValueError, naming file and line

To add one, write the module and put it into `FORMATS`; `Source` and `Annotations` are in
`formats/base.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from nonlocalnet.addresses import exists
from nonlocalnet.data.find_videos import LISTS
from nonlocalnet.data.formats import (
    charades,
    folders,
    hmdb51,
    jester,
    kinetics,
    lists,
    packed,
    something,
    ucf101,
)
from nonlocalnet.data.formats.base import Annotations, Source


class Format(Protocol):
    """What `FORMATS` holds: a module, or any object with these two functions."""

    def matches(self, source: Source) -> bool: ...

    def read(self, source: Source) -> Annotations: ...


# the first that matches is used; the last two take every file and every folder
FORMATS: list[Format] = [
    packed,
    charades,
    something,
    jester,
    ucf101,
    hmdb51,
    kinetics,
    lists,
    folders,
]


def read_annotations(source: Source) -> Annotations:
    """Read a data set by the first of `FORMATS` that matches.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: a file is not of its format; the message names file and line.
    """
    if not exists(source.path):
        raise FileNotFoundError(
            f"no videos at {source.path}: name a data set's folder, a folder of classes, or a list "
            "file"
        )
    found = next(form for form in FORMATS if form.matches(source)).read(source)
    if found.walked or "videos" not in vars(source):
        return found
    return replace(found, notes=(*found.notes, *source.videos.notes(known=LISTS)), walked=True)


__all__ = ["FORMATS", "Annotations", "Format", "Source", "read_annotations"]
