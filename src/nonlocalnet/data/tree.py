"""Where the videos of a data set lie: folders are listed once, no file is asked for by name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")


def find_videos(root: Path) -> Iterator[Path]:
    """Walk through all videos below a folder, sorted within each; links are followed, once each."""
    seen = set()
    for folder, inner, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link back to where it lies
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(files):
            if is_video(name):
                yield Path(folder, name)


def is_video(name: str) -> bool:
    """Whether a file is a video by its name; hidden files are unfinished ones."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


class VideoTree:
    """The videos below a folder, to be found by name, without or with the folders they lie in."""

    def __init__(self, root: Path) -> None:
        self._by_stem: defaultdict[str, list[Path]] = defaultdict(list)
        for path in find_videos(root):
            self._by_stem[path.stem].append(path)

    def find(self, stem: str, *folders: str) -> Path | None:
        """Find a video by its name without suffix; of several, one that lies in those folders."""
        names = {plain(name) for name in folders}
        return max(
            self._by_stem.get(stem, ()),
            key=lambda path: sum(plain(part) in names for part in path.parts[:-1]),
            default=None,
        )


def plain(name: str) -> str:
    """Read a class name as people write it in folders, too: "air_drumming" is "air drumming"."""
    return " ".join(name.replace("_", " ").split()).casefold()


def resolve(paths: Sequence[Path]) -> list[Path | None]:
    """Find listed files, each folder listed once; a video may have got another of `SUFFIXES`."""

    @cache
    def listing(folder: str) -> dict[str, list[str]]:
        names = defaultdict(list)
        try:
            for name in sorted(os.listdir(folder)):
                names[name].append(name)
                if is_video(name):
                    names[os.path.splitext(name)[0]].append(name)
        except OSError:
            pass
        return names

    found: list[Path | None] = []
    for path in paths:
        names = listing(str(path.parent))
        stem = path.stem if is_video(path.name) else path.name
        match = path.name if path.name in names else next(iter(names.get(stem, ())), None)
        found.append(None if match is None else path.with_name(match))
    return found


def same_names(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists of class names are the same but for spaces and underscores."""
    return list(map(plain, one)) == list(map(plain, other))
