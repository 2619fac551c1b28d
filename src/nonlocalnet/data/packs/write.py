"""Pack a data set: copy its videos into a few tar files, with an index beside them.

The tar files are those of WebDataset: a sample is the files of one key, which is the name up to the
first dot of its last part. `train/archery/a.mp4` and `train/archery/a.cls` are a video and its
label, and `train/archery/b.00001.jpg`, ... are the frames of another one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

from nonlocalnet.addresses import INDEX, PARTIAL, pack_at
from nonlocalnet.data.datasets import number_labels
from nonlocalnet.data.formats.base import Annotations, Entry
from nonlocalnet.data.formats.packed import DESCRIPTION
from nonlocalnet.data.packs.index import SPLITS, VERSION, Line, describe_video, encode
from nonlocalnet.data.packs.video import PackedVideo, Shard
from nonlocalnet.data.packs.window import Descriptor, Window
from nonlocalnet.data.video.frame_folder import FrameFolder
from nonlocalnet.errors import FileError
from nonlocalnet.runtime.atomic import write_atomically

RECORD = tarfile.RECORDSIZE


@dataclass
class PackReport:
    """What packed data has.

    Args:
        videos, shards: how many there are.
        before: how many of the videos were there before this call.
        missing: videos that are listed and do not exist.
    """

    videos: int
    shards: int
    before: int
    missing: int


@dataclass(frozen=True)
class _Item:
    """A video to pack; without files, one that is listed and does not exist."""

    entry: Entry
    path: str = ""  # in the packed data
    key: str = ""
    files: tuple[tuple[Path, str, int], ...] = ()  # what follows the key and a dot, and the size
    label: tuple[str, bytes] | None = None  # likewise

    @cached_property
    def size(self) -> int:
        """The bytes that it takes in a tar file."""
        sizes = [(suffix, size) for _, suffix, size in self.files]
        sizes += [(self.label[0], len(self.label[1]))] if self.label else []
        return sum(
            len(_header(self.key, suffix, size).tobuf(tarfile.PAX_FORMAT)) + _padded(size)
            for suffix, size in sizes
        )


class _Block(NamedTuple):
    """A shard to write."""

    name: str
    split: str
    items: list[_Item]

    @property
    def videos(self) -> int:
        return sum(bool(item.files) for item in self.items)


def pack_dataset(
    source: Path,
    found: Annotations,
    out: Path,
    *,
    shard_size: int = 10**9,
    progress: Callable[[int, str], None] = lambda done, text: None,
) -> PackReport:
    """Copy the videos of all splits into tar files in a folder, with an index.

    Files are copied as they are, whether they can be decoded or not. A folder of numbered pictures
    becomes a sample of its pictures. A shard gets its name when it is complete, and so does the
    index. After an interruption, the same call continues with the shard that was being written; the
    result is the same, byte by byte.

    Args:
        source: where the data set is.
        found: what it lists, from `read_entries`.
        out: the folder for the packed data.
        shard_size: bytes of a tar file; only one with a single video may be larger.
        progress: called with a number of videos done and the name of their shard.

    Returns:
        What the packed data has.

    Raises:
        ValueError: labels are wrong, `source` is packed already, `out` has other data or lies in
            `source`, a file cannot be read or has changed, or the disk is full.
    """
    if pack_at(source) is not None:
        raise ValueError(f"{source} is packed already")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{out} is inside of {source}: choose a folder elsewhere")
    plan, labels = _plan(source, found, shard_size)
    header = encode({**labels, "shard_size": shard_size, "fingerprint": _fingerprint(plan)})
    done = _continue(out, header, plan)
    before = sum(block.videos for block in plan[:done])
    progress(before, "")
    _check_space(out, plan[done:])
    for block in plan[done:]:
        _write_shard(out, block)
        progress(block.videos, block.name)
    if (out / PARTIAL).exists():
        (out / PARTIAL).replace(out / INDEX)
    items = [item for block in plan for item in block.items]
    videos = sum(block.videos for block in plan)
    return PackReport(videos, len(plan), before, len(items) - videos)


def _plan(source: Path, found: Annotations, shard_size: int) -> tuple[list[_Block], dict]:
    """Divide a data set into shards; returns them, and what the index says about the whole."""
    data = number_labels(source, found)
    data.check_classes()
    parts = {split: list(getattr(found, split)) for split in SPLITS}
    parts["test"] = [entry for entry in parts["test"] if entry.path is not None]
    files = [_absolute(entry) for entry in chain(*parts.values()) if entry.path is not None]
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    plan = []
    for split, entries in parts.items():
        records = iter(data.splits.get(split, ()))  # no command uses the labels of a test split
        items, taken = [], set()
        for entry in entries:
            if entry.path is None:
                items.append(_Item(entry))
                continue
            record, label = next(records, None), None
            if record is not None:
                label = _label_file(record.labels, data.classes, data.multi_label)
            items.append(_make_item(entry, root, taken, label))
        blocks = _divide(items, shard_size)
        plan += [_Block(f"{split}-{i:06d}.tar", split, part) for i, part in enumerate(blocks)]
    about = {name: getattr(found, name) for name in DESCRIPTION}
    counts = {split: len(entries) for split, entries in parts.items()}
    return plan, {"nonlocalnet_pack": VERSION, **about, "videos": counts}


def _absolute(entry: Entry) -> str:
    if isinstance(entry.path, PackedVideo):
        raise FileError(str(entry.path), "is packed already")
    return os.path.abspath(str(entry.path))


def _label_file(labels: Sequence[int], classes: Sequence[str], many: bool) -> tuple[str, bytes]:
    """Write a label as WebDataset's readers decode it: a number, or JSON for several."""
    if not many:
        return "cls", str(labels[0]).encode()
    content = {"labels": list(labels), "classes": [classes[label] for label in labels]}
    return "json", json.dumps(content).encode()


def _make_item(entry: Entry, root: str, taken: set[str], label: tuple[str, bytes] | None) -> _Item:
    video = Path(_absolute(entry))
    path = video.relative_to(root)
    suffix = "" if video.is_dir() else path.suffix
    key = path.with_name(path.name.removesuffix(suffix).replace(".", "_")).as_posix()
    while key in taken:  # "a.b.mp4" beside "a_b.mp4", or a video that is listed twice
        key += "_"
    taken.add(key)
    pictures = FrameFolder(video).pictures if video.is_dir() else ()
    files = [(picture, picture.name) for picture in pictures]
    files = files or [(video, suffix.removeprefix(".") or "bin")]
    try:
        sizes = tuple((file, ending, file.stat().st_size) for file, ending in files)
    except OSError as error:
        raise FileError(video, f"cannot be packed ({error.strerror})") from None
    return _Item(entry, path.as_posix(), key, sizes, label)


def _divide(items: Iterable[_Item], shard_size: int) -> list[list[_Item]]:
    """Divide the videos of a split into shards, in their order."""
    shards: list[list[_Item]] = []
    used = 0
    for item in items:
        # a tar file ends with two empty blocks, and is filled up to whole records
        full = used + item.size + 2 * tarfile.BLOCKSIZE > shard_size // RECORD * RECORD
        if not shards or (full and used):
            shards.append([])
            used = 0
        shards[-1].append(item)
        used += item.size
    return shards


def _fingerprint(plan: Sequence[_Block]) -> str:
    """Hash everything that decides the content of shards, except the bytes of the videos."""
    digest = hashlib.sha256()
    for name, _, items in plan:
        for item in items:
            sizes = [size for _, _, size in item.files]
            text = encode([name, item.entry.name, item.entry.label, item.path, sizes])
            digest.update(text.encode())
    return digest.hexdigest()


def _continue(out: Path, header: str, plan: Sequence[_Block]) -> int:
    """Return how many shards are complete, and drop what follows them from the unfinished index."""
    out.mkdir(parents=True, exist_ok=True)
    index = out / INDEX if (out / INDEX).exists() else out / PARTIAL
    lines = index.read_text().splitlines(keepends=True) if index.exists() else [header]
    if lines[:1] != [header] and lines[0].endswith("\n"):
        raise ValueError(
            f"{out} has other data, or shards of another size: choose another folder, or delete it"
        )
    if index.name == INDEX:
        return len(plan)
    kept, done = [header], 0
    for block in plan:
        more = lines[len(kept) : len(kept) + 1 + len(block.items)]
        shard = out / block.name
        whole = len(more) == 1 + len(block.items) and more[-1].endswith("\n")
        if not whole or not shard.exists() or shard.stat().st_size != json.loads(more[0])["bytes"]:
            break
        kept, done = kept + more, done + 1
    write_atomically(index, lambda file: file.write_text("".join(kept)))
    return done


def _check_space(out: Path, plan: Sequence[_Block]) -> None:
    needed = sum(item.size for block in plan for item in block.items)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise ValueError(
            f"{out} needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free on its disk"
        )


def _write_shard(out: Path, block: _Block) -> None:
    """Write a shard, and then its lines into the unfinished index."""
    temporary = out / f".{block.name}.partial"
    try:
        with temporary.open("w+b") as file:
            lines = _fill(file, block, Shard(out, block.name, 0))
            size = file.tell()
            os.fsync(file.fileno())
        temporary.replace(out / block.name)
        with (out / PARTIAL).open("a") as journal:
            shard = {"shard": block.name, "split": block.split, "bytes": size}
            journal.write("".join(map(encode, [shard, *map(describe_video, lines)])))
            journal.flush()
            os.fsync(journal.fileno())
    except OSError as error:
        raise ValueError(
            f"{out / block.name} could not be written ({error.strerror or error}); the same "
            "command continues"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _fill(file: BinaryIO, block: _Block, shard: Shard) -> list[Line]:
    """Write the files of a shard, and return its lines for the index."""
    lines = []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for item in block.items:
            entry, video = item.entry, None
            if item.files:
                start = tar.offset
                for source, suffix, size in item.files:
                    _copy(tar, _header(item.key, suffix, size), source)
                length = tar.offset - start
                pictures = entry.path is not None and entry.path.is_dir()
                if not pictures:  # the bytes of the video alone, without header and padding
                    length = item.files[0][2]
                    start = tar.offset - _padded(length)
                file.flush()
                window = Window(Descriptor(os.dup(file.fileno())), start, length, item.path)
                digest = hashlib.file_digest(window, "sha256").hexdigest()
                video = PackedVideo(shard, item.path, start, length, digest, pictures)
            if item.label is not None:
                suffix, data = item.label
                tar.addfile(_header(item.key, suffix, len(data)), io.BytesIO(data))
            lines.append(Line(entry.name, entry.label, video, "", entry.num_frames))
    return lines


def _copy(tar: tarfile.TarFile, header: tarfile.TarInfo, source: Path) -> None:
    try:
        file = source.open("rb")
    except OSError as error:
        raise FileError(source, f"cannot be packed ({error.strerror})") from None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size != header.size:
            raise FileError(
                source, f"has {size} bytes, and had {header.size} before: is it written?"
            )
        tar.addfile(header, file)


def _header(key: str, suffix: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(f"{key}.{suffix}")
    header.size = size
    return header


def _padded(size: int) -> int:
    return size + -size % tarfile.BLOCKSIZE
