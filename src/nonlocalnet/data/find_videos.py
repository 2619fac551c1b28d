"""Find the videos of a data set; each folder is listed once, and no file is asked for by name.

Every command finds videos here, so that all of them see the same ones and name the same rest. A
folder of numbered pictures is a video. Hidden files and folders (a leading dot) are left out. Links
are followed, except those that lead back to a folder around them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from nonlocalnet.data.numbering import numbered
from nonlocalnet.data.packs.index import find_packed
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.suffixes import SUFFIXES, is_video, is_video_file
from nonlocalnet.errors import printable

LISTS = (".txt", ".csv", ".json")  # suffixes of lists, tables and annotations
OWN = (".resized.json", ".checked.jsonl")  # files that `data resize` and `data check` write
SHOWN = 3  # names in a note


@dataclass
class FoundVideos:
    """The files below a folder, sorted into videos and everything else.

    Args:
        root: the folder.
        videos: files, and folders of numbered pictures.
        frames: those of the videos that are folders of pictures.
        gaps: those of `frames` in which numbers are missing.
        ignored: files that are no videos.
        hidden: files and folders with a leading dot, which are left out.
        linked: folders that were reached through a link.
        left_out: links that lead nowhere, or to a folder around them.
        closed: folders that cannot be listed.
    """

    root: Path
    videos: list[Path] = field(default_factory=list)
    frames: list[Path] = field(default_factory=list)
    gaps: list[Path] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    linked: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)

    @property
    def lists(self) -> list[Path]:
        """The lists, tables and annotations, known by their suffixes."""
        return [path for path in self.ignored if path.suffix.lower() in LISTS]

    def find(self, name: str, *folders: str) -> Path | None:
        """Find a video by its name without suffix, anywhere below the root.

        Args:
            name: "a" or "b/a"; the folders in it must be there.
            folders: of several videos of that name, one that lies in most of these is returned.
        """
        *parents, stem = Path(name).parts
        names = {plain(name) for name in folders}
        return max(
            (
                path
                for path in self._by_stem.get(stem, ())
                if path.parent.parts[len(path.parent.parts) - len(parents) :] == tuple(parents)
            ),
            key=lambda path: sum(plain(part) in names for part in path.parts[:-1]),
            default=None,
        )

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        found: defaultdict[str, list[Path]] = defaultdict(list)
        for path in sorted(self.videos, key=_rank):
            found[video_stem(path.name)].append(path)
        return found

    def notes(self, known: Sequence[str] = ()) -> list[str]:
        """Say what was left out, and what is read in a way that not everybody expects.

        Args:
            known: suffixes of files that are no videos and need no note.

        Returns:
            Sentences, each with the first names.
        """
        ignored = [path for path in self.ignored if path.suffix.lower() not in known]
        parts = (
            (ignored, "{} file{s} {is} no video{s}"),
            (self.hidden, "{} hidden file{s} or folder{s} {is} left out"),
            (self.linked, "{} folder{s} {is} reached through a link, and read"),
            (
                self.left_out,
                "{} link{s} lead{s3} nowhere or to a folder around it, and {is} left out",
            ),
            (self.closed, "{} folder{s} cannot be read, because of a permission or an error"),
            (self.frames, "{} folder{s} of numbered pictures {is} read as {a}video{s}"),
            (self.gaps, "{} folder{s} of frames lack{s3} numbers in between"),
        )
        return [
            name_some(text, [path.relative_to(self.root).as_posix() for path in paths])
            for paths, text in parts
            if paths
        ]


def name_some(text: str, names: Sequence[str]) -> str:
    """Fill in a number, singular or plural, and the first names: "2 files: a, b".

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


def find_videos(root: Path) -> FoundVideos:
    """Find the videos below a folder, at any depth; the files of each folder are sorted by name.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    found = FoundVideos(root)
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
            found.left_out.append(folder)
            continue
        if folder != root and folder.is_symlink():
            found.linked.append(folder)
        inner = _sort_out(folder, entries, found)
        waiting += [(path, above | {here}) for path in reversed(inner)]
    return found


def _sort_out(folder: Path, entries: Iterable[os.DirEntry[str]], found: FoundVideos) -> list[Path]:
    """Sort what a folder holds; return the folders in it, to be listed next."""
    files, folders, videos = [], [], set()
    for entry in entries:
        path = folder / entry.name
        if entry.name in OWN:
            continue
        if entry.name.startswith("."):
            found.hidden.append(path)
        elif entry.is_symlink() and not path.exists():
            found.left_out.append(path)
        elif entry.is_dir():
            folders.append(path)
        else:
            files.append(path)
            # reading from a pipe would wait for its writer
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


def video_stem(name: str) -> str:
    """Remove a video's suffix; the name of a folder of frames may have a dot in it."""
    return os.path.splitext(name)[0] if is_video(name) else name


def _rank(path: Path) -> int:
    """Order videos of one name: the usual suffixes come first."""
    return SUFFIXES.index(path.suffix.lower()) if is_video(path.name) else len(SUFFIXES)


def plain(name: str) -> str:
    """Normalize a class name: underscores are spaces ("air_drumming"), and case does not matter."""
    return " ".join(name.replace("_", " ").split()).casefold()


def find_listed(paths: Sequence[Path]) -> list[Path | PackedVideo | None]:
    """Find the files that a list names; a video may have another of `SUFFIXES` by now.

    A path may lead into packed data.

    Returns:
        A path for each, or None where there is no such file.
    """

    @cache
    def listing(folder: str) -> dict[str, str]:
        try:
            there = os.listdir(folder)
        except OSError:
            return {}
        # a name as it is written comes first, then the usual suffixes
        names: dict[str, str] = {}
        for name in sorted(filter(is_video, there), key=lambda name: (_rank(Path(name)), name)):
            names.setdefault(os.path.splitext(name)[0], name)
        return names | {name: name for name in there}

    found: list[Path | PackedVideo | None] = []
    for path in paths:
        names = listing(str(path.parent))
        match = names.get(path.name) or names.get(video_stem(path.name))
        found.append(find_packed(path) if match is None else path.with_name(match))
    return found


def same_names(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists of class names differ in spaces, underscores and case only."""
    return list(map(plain, one)) == list(map(plain, other))
