"""Where the videos of a data set lie: folders are listed once, no file is asked for by name.

One walk serves every command, so that all of them see the same videos and name the same rest. A
folder of numbered pictures is a video. Hidden files and folders (a leading dot) are left out; links
are followed, but for those that lead back to a folder they lie in.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from nonlocalnet.data.numbering import numbered
from nonlocalnet.data.suffixes import SUFFIXES, is_video, is_video_file
from nonlocalnet.errors import printable

LISTS = (".txt", ".csv", ".json")  # suffixes of lists, tables and annotations
OWN = (".resized.json", ".checked.jsonl")  # what `data resize` and `data check` keep for themselves
SHOWN = 3  # names in a note


@dataclass
class Walk:
    """What lies below a folder: its videos, in order, and all else by what became of it."""

    root: Path
    videos: list[Path] = field(default_factory=list)
    frames: list[Path] = field(default_factory=list)  # of the videos, folders of pictures
    gaps: list[Path] = field(default_factory=list)  # of these, with missing numbers
    ignored: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    linked: list[Path] = field(default_factory=list)
    cut: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)

    def notes(self, known: Sequence[str] = ()) -> list[str]:
        """Say in lines what is not as everybody would expect, and what was left out.

        known: suffixes of files that are no videos and need no word.
        """
        ignored = [path for path in self.ignored if path.suffix.lower() not in known]
        parts = (
            (ignored, "{} file{s} {is} no video{s}"),
            (self.hidden, "{} hidden file{s} or folder{s} {is} left out"),
            (self.linked, "{} folder{s} {is} reached through a link, and read"),
            (self.cut, "{} link{s} lead{s3} nowhere or to a folder around it, and {is} left out"),
            (self.closed, "{} folder{s} cannot be read, for want of permission or by an error"),
            (self.frames, "{} folder{s} of numbered pictures {is} read as {a}video{s}"),
            (self.gaps, "{} folder{s} of frames lack{s3} numbers in between"),
        )
        return [self._note(paths, text) for paths, text in parts if paths]

    def _note(self, paths: list[Path], text: str) -> str:
        names = (path.relative_to(self.root).as_posix() for path in paths)
        return name_some(text, list(names))


def name_some(text: str, names: Sequence[str]) -> str:
    """Fill in a number, the grammar that follows it, and the first names: "2 files: a, b".

    >>> name_some("{} class{es} {is} left empty", ["ant"])
    '1 class is left empty: ant'
    >>> name_some("{} file{s} {is} no video{s}", ["a.txt", "b.doc", "c", "d", "e"])
    '5 files are no videos: a.txt, b.doc, c and 2 more'
    """
    one = len(names) == 1
    words = {"s": "" if one else "s", "es": "" if one else "es", "is": "is" if one else "are"}
    words |= {"s3": "s" if one else "", "a": "a " if one else "", "has": "has" if one else "have"}
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{text.format(len(names), **words)}: {', '.join(map(printable, names[:SHOWN]))}{rest}"


def walk(root: Path) -> Walk:
    """Find all that lies below a folder, sorted within each.

    Raises OSError where the folder itself cannot be listed.
    """
    found = Walk(root)
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            if folder == root:
                raise
            found.closed.append(folder)
            continue
        here = (status.st_dev, status.st_ino)
        if here in above:
            found.cut.append(folder)
            continue
        if folder != root and folder.is_symlink():
            found.linked.append(folder)
        inner = _sort_out(folder, entries, found)
        waiting += [(path, above | {here}) for path in reversed(inner)]
    return found


def _sort_out(folder: Path, entries: Iterable[os.DirEntry[str]], found: Walk) -> list[Path]:
    """Put what a folder holds where it belongs; give the folders to go on with."""
    files, folders, videos = [], [], set()
    for entry in entries:
        path = folder / entry.name
        if entry.name in OWN:
            continue
        if entry.name.startswith("."):
            found.hidden.append(path)
        elif entry.is_symlink() and not path.exists():
            found.cut.append(path)
        elif entry.is_dir():
            folders.append(path)
        else:
            files.append(path)
            # a pipe would wait for whoever writes into it
            if entry.is_file() and is_video_file(path):
                videos.add(path)
    series = None if videos or folders else numbered(files)
    if series is not None:
        found.videos.append(folder)
        found.frames.append(folder)
        if series.missing:
            found.gaps.append(folder)
        files = sorted({*files} - {*series.frames, *series.flow})
    for path in files:
        (found.videos if path in videos else found.ignored).append(path)
    return folders


class VideoTree:
    """The videos below a folder, to be found by name, without or with the folders they lie in."""

    def __init__(self, root: Path) -> None:
        self.walk = walk(root)
        self._by_stem: defaultdict[str, list[Path]] = defaultdict(list)
        for path in sorted(self.walk.videos, key=_rank):
            self._by_stem[video_stem(path.name)].append(path)

    def find(self, stem: str, *folders: str) -> Path | None:
        """Find a video by its name without suffix; of several, one that lies in those folders."""
        names = {plain(name) for name in folders}
        return max(
            self._by_stem.get(stem, ()),
            key=lambda path: sum(plain(part) in names for part in path.parts[:-1]),
            default=None,
        )


def video_stem(name: str) -> str:
    """Take a video's suffix off; a folder of frames may have a point in its name."""
    return os.path.splitext(name)[0] if is_video(name) else name


def _rank(path: Path) -> int:
    """Where one name has several suffixes, the usual one comes first."""
    return SUFFIXES.index(path.suffix.lower()) if is_video(path.name) else len(SUFFIXES)


def plain(name: str) -> str:
    """Read a class name as people write it in folders, too: "air_drumming" is "air drumming"."""
    return " ".join(name.replace("_", " ").split()).casefold()


def resolve(paths: Sequence[Path]) -> list[Path | None]:
    """Find listed files, each folder listed once; a video may have got another of `SUFFIXES`."""

    @cache
    def listing(folder: str) -> dict[str, str]:
        try:
            there = os.listdir(folder)
        except OSError:
            return {}
        # the first to come wins: the usual suffixes, and before all a name as it is written
        names: dict[str, str] = {}
        for name in sorted(filter(is_video, there), key=lambda name: (_rank(Path(name)), name)):
            names.setdefault(os.path.splitext(name)[0], name)
        return names | {name: name for name in there}

    found: list[Path | None] = []
    for path in paths:
        names = listing(str(path.parent))
        match = names.get(path.name) or names.get(video_stem(path.name))
        found.append(None if match is None else path.with_name(match))
    return found


def same_names(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists of class names are the same but for spaces and underscores."""
    return list(map(plain, one)) == list(map(plain, other))
