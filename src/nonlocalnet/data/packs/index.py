"""The index of packed data: one line of JSON for the whole, for each shard, and for each video.

The first line describes the data set. The line of a shard comes before those of its videos. Lines
are in the order in which the data set lists its videos, so that packed data are sampled as the
files that they were made from.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from nonlocalnet.addresses import (
    INDEX,
    PARTIAL,
    address_of,
    folders_above,
    pack_at,
    shown_path,
)
from nonlocalnet.data.packs.remote import read_file
from nonlocalnet.data.packs.video import PackedVideo, Shard
from nonlocalnet.errors import shown

VERSION = 1
SPLITS = ("train", "val", "test")


class Line(NamedTuple):
    """A video of an index: the fields of `formats.base.Entry`."""

    name: str
    label: str | tuple[int, ...]
    path: PackedVideo | None
    where: str
    num_frames: int | None


@dataclass(frozen=True)
class Pack:
    """What an index says.

    Args:
        about: the first line.
        splits: the videos that each split lists, also those that do not exist.
    """

    about: dict[str, Any]
    splits: dict[str, list[Line]]

    @cached_property
    def videos(self) -> dict[str, PackedVideo]:
        """The videos of all splits by their paths, each once."""
        found: dict[str, PackedVideo] = {}
        for line in chain.from_iterable(self.splits.values()):
            if line.path is not None:
                found.setdefault(line.path.path, line.path)
        return found


def encode(line: object) -> str:
    """Write a line of an index."""
    return json.dumps(line) + "\n"


def describe_video(line: Line) -> dict[str, Any]:
    """Write the line of a video; one without a path is listed and does not exist."""
    fields: dict[str, Any] = {"name": line.name, "label": line.label}
    if line.num_frames is not None:
        fields["num_frames"] = line.num_frames
    if (video := line.path) is not None:
        fields |= {"path": video.path, "start": video.start, "length": video.length}
        fields |= {"sha256": video.sha256} | ({"pictures": True} if video.pictures else {})
    return fields


def read_pack(folder: Path) -> Pack:
    """Read the index in a folder or at an address.

    Raises:
        FileNotFoundError: there is none.
        ValueError: packing was not finished, a line is not of this form, or shards are missing.
        RuntimeError: the address cannot be read.
    """
    index = folder / INDEX
    if address_of(folder):
        return _read_remote(folder)
    if not index.is_file() and (folder / PARTIAL).is_file():
        raise ValueError(
            f"{folder}: packing was interrupted; start the same `nonlocalnet data pack` again"
        )
    status = index.stat()
    return _read_local(folder, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=8)
def _read_remote(folder: Path) -> Pack:
    try:
        return _parse(folder, read_file(shown_path(folder / INDEX)))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no packed data at {shown_path(folder)}, which has no {INDEX}"
        ) from None


@lru_cache(maxsize=8)
def _read_local(folder: Path, stamp: tuple[int, int]) -> Pack:
    pack = _parse(folder, (folder / INDEX).read_bytes())
    shards = {video.shard for video in pack.videos.values()}
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.suffix == ".tar"}
    wrong = sorted(shard.name for shard in shards if sizes.get(shard.name) != shard.size)
    if wrong:
        raise ValueError(
            f"{folder}: {len(wrong)} of {len(shards)} shards are missing or have another size than "
            f"the index says, {wrong[0]} for one; copy them again"
        )
    return pack


def _parse(folder: Path, data: bytes) -> Pack:
    where = shown_path(folder / INDEX)
    about: dict[str, Any] = {}
    splits: dict[str, list[Line]] = {split: [] for split in SPLITS}
    shard, split = None, SPLITS[0]
    for number, text in enumerate(data.decode(errors="replace").split("\n"), 1):
        if not text:
            continue
        try:
            fields = json.loads(text)
            if number == 1:
                about = fields
                if about["nonlocalnet_pack"] != VERSION:
                    raise ValueError(
                        f"{where} has version {shown(about['nonlocalnet_pack'])} of packed data, "
                        f"and this nonlocalnet reads version {VERSION}: update it"
                    )
            elif "shard" in fields:
                shard, split = Shard(folder, fields["shard"], fields["bytes"]), fields["split"]
            else:
                splits[split].append(_line(fields, shard, f"{where}:{number}"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}:{number}: not readable as JSON ({error})") from None
        except (LookupError, TypeError, AttributeError):
            raise ValueError(
                f"{where}:{number}: not a line of packed data: {shown(text)}"
            ) from None
    for name, lines in splits.items():
        if len(lines) != (listed := about.get("videos", {}).get(name)):
            raise ValueError(
                f"{where} has {len(lines)} of {listed} videos of {name}: copy it again"
            )
    return Pack(about, splits)


def _line(fields: dict[str, Any], shard: Shard | None, where: str) -> Line:
    label = fields["label"] if isinstance(fields["label"], str) else tuple(fields["label"])
    video = None
    if "path" in fields:
        if shard is None:
            raise LookupError("a video before its shard")
        place = (fields["path"], fields["start"], fields["length"], fields["sha256"])
        video = PackedVideo(shard, *place, fields.get("pictures", False))
    return Line(fields["name"], label, video, where, fields.get("num_frames"))


def find_packed(path: Path) -> PackedVideo | None:
    """Find the video that a path such as "packed/val/a.mp4" names.

    Returns:
        None where none of the folders above is packed data, or it has no such video.

    Raises:
        ValueError, RuntimeError: as `read_pack`.
    """
    for folder, name in folders_above(path):
        if pack_at(folder) is not None:
            with suppress(FileNotFoundError):
                return read_pack(folder).videos.get(name)
    return None
