"""Find the videos that a command's words name: files, folders, packed data, lists, patterns."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nonlocalnet.addresses import address_of, pack_at
from nonlocalnet.data.find_videos import find_videos
from nonlocalnet.data.packs.index import find_packed, read_pack
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.suffixes import is_video, is_video_file

if TYPE_CHECKING:
    from nonlocalnet.data.formats.rows import Row

LISTS = (".txt", ".csv")  # suffixes of lists of paths
Video = TypeVar("Video", bound=Path | PackedVideo)


def expand_paths(paths: Sequence[Path]) -> tuple[list[Path | PackedVideo], list[str]]:
    """Find the videos that paths name, each once, in their order.

    A path is one of

    - a video file, or a folder of numbered pictures;
    - a folder: the videos in it at any depth (`find_videos`);
    - packed data, which is a folder with an index or an address: its videos in all splits, each
      named by its path in it, "packed/val/a.mp4"; such a path is one video;
    - a list, which is a .txt or .csv file of paths, one per line, with or without labels;
      relative ones start at its folder;
    - a pattern such as "clips/**/*.mp4": the videos and folders that match.

    Files that do not exist are returned, too, so that reading them gives an error for each.

    Returns:
        The videos, and sentences about what was left out of folders.

    Raises:
        ValueError: a list is empty, or nothing matches a pattern.
        OSError: a list or a folder cannot be read.
        RuntimeError: an address cannot be read.
    """
    found: dict[str, Path | PackedVideo] = {}
    notes: list[str] = []
    for path in paths:
        for video in _videos_of(path, notes):
            found.setdefault(os.path.abspath(str(video)), video)
    return list(found.values()), notes


def _videos_of(path: Path, notes: list[str]) -> Iterator[Path | PackedVideo]:
    if address_of(path):
        yield from _videos_at(path)
    elif (folder := pack_at(path)) is not None:
        yield from read_pack(folder).videos.values()
    elif path.is_dir():
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
        yield path if path.exists() else find_packed(path) or path


def _videos_at(path: Path) -> Iterator[PackedVideo]:
    folder = pack_at(path)
    assert folder is not None, "an address"
    try:
        yield from read_pack(folder).videos.values()
    except FileNotFoundError as error:
        video = find_packed(path)
        if video is None:
            raise ValueError(f"{error}, and no video of that name above it") from None
        yield video


def take_part(videos: Sequence[Video], number: int, parts: int) -> list[Video]:
    """Take the videos of one of several parts; each video is in exactly one of them.

    The part of a video depends on its path as it was given, and on nothing else, so that videos
    that are added between two calls do not change the part of others.

    Args:
        videos: all of them.
        number: of the part, from 1.
        parts: how many there are.

    >>> some = [Path(f"{i}.mp4") for i in range(9)]
    >>> sorted(take_part(some, 1, 2) + take_part(some, 2, 2)) == some
    True
    """

    def part_of(video: Video) -> int:
        digest = hashlib.sha256(str(video).encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8]) % parts + 1

    return [video for video in videos if part_of(video) == number]


def _listed(row: Row, folder: Path) -> Path | PackedVideo:
    """Return the video that a line names: all of it, or without a label and a number of frames."""
    names = [row.text, row.path, *(folder.name for folder in row.folders)]
    paths = [folder / name for name in names if name]
    there = (path if path.exists() else find_packed(path) for path in paths)
    named = (path for path in paths if is_video(path.name))
    return next(filter(None, there), None) or next(named, paths[0])
