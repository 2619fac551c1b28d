"""Find the videos that a command's words name: files, folders, lists and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nonlocalnet.data.find_videos import find_videos
from nonlocalnet.data.suffixes import is_video, is_video_file

if TYPE_CHECKING:
    from nonlocalnet.data.formats.rows import Row

LISTS = (".txt", ".csv")  # suffixes of lists of paths


def expand_paths(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Find the videos that paths name, each once, in their order.

    A path is one of

    - a video file, or a folder of numbered pictures;
    - a folder: the videos in it at any depth (`find_videos`);
    - a list, which is a .txt or .csv file of paths, one per line, with or without labels;
      relative ones start at its folder;
    - a pattern such as "clips/**/*.mp4": the videos and folders that match.

    Files that do not exist are returned, too, so that reading them gives an error for each.

    Returns:
        The videos, and sentences about what was left out of folders.

    Raises:
        ValueError: a list is empty, or nothing matches a pattern.
        OSError: a list or a folder cannot be read.
    """
    found: dict[str, Path] = {}
    notes: list[str] = []
    for path in paths:
        for video in _videos_of(path, notes):
            found.setdefault(os.path.abspath(video), video)
    return list(found.values()), notes


def _videos_of(path: Path, notes: list[str]) -> Iterator[Path]:
    if path.is_dir():
        found = find_videos(path)
        notes += [f"{path}: {note}" for note in found.notes()]
        yield from found.videos or [path]  # a folder without any is told of when it is read
    elif path.suffix.lower() in LISTS and path.is_file():
        from nonlocalnet.data.formats.rows import read_rows

        rows = read_rows(path)
        if not rows:
            raise ValueError(f"{path} is an empty list: write one path per line")
        yield from (_listed(row, path.parent) for row in rows)
    elif glob.has_magic(str(path)) and not path.exists():
        matches = list(map(Path, sorted(glob.glob(str(path), recursive=True))))
        videos = [match for match in matches if match.is_dir() or is_video_file(match)]
        if not videos:
            raise ValueError(f"no video or folder matches {path}")
        for video in videos:
            yield from _videos_of(video, notes) if video.is_dir() else [video]
    else:
        yield path


def _listed(row: Row, folder: Path) -> Path:
    """Return the video that a line names: all of it, or without a label and a number of frames."""
    names = [row.text, row.path, *(row.folder or ())[:1]]
    paths = [folder / name for name in names if name]
    named = (path for path in paths if is_video(path.name))
    return next((path for path in paths if path.exists()), None) or next(named, paths[0])
