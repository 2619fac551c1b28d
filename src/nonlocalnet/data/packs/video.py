"""A video inside of a shard, which is read by its offset and is never unpacked."""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from nonlocalnet.addresses import address_of, shown_path
from nonlocalnet.data.packs.remote import TRIES, read_range
from nonlocalnet.data.packs.window import Descriptor, Window
from nonlocalnet.errors import FileError

OPEN_SHARDS = 128  # that a process keeps open
BLOCK = 1 << 24  # bytes of one request


@dataclass(frozen=True)
class Shard:
    """A tar file of packed data.

    Args:
        folder: of the packed data; its path may stand for an address.
        name: of the file.
        size: bytes.
    """

    folder: Path
    name: str
    size: int

    @cached_property
    def remote(self) -> bool:
        """Whether it is at an address."""
        return address_of(self.folder) is not None

    def __str__(self) -> str:
        return shown_path(self.folder / self.name)


@dataclass(frozen=True, slots=True)
class PackedVideo:
    """A video file, or a folder of numbered pictures, in a shard. It can be used as its path.

    `str` gives the path as if the packed data were a folder of files: "packed/val/a.mp4". Commands
    and `nl.predict` take this, too.

    Args:
        shard: where it is.
        path: in the packed data, with forward slashes.
        start, length: its bytes in the shard. Of a folder, they are a tar file of its pictures.
        sha256: of these bytes.
        pictures: it is a folder of pictures.
    """

    shard: Shard
    path: str
    start: int
    length: int
    sha256: str
    pictures: bool = False

    def __str__(self) -> str:
        return shown_path(self.shard.folder / self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.path).stem

    def is_dir(self) -> bool:
        """Whether it is a folder of pictures."""
        return self.pictures

    def is_file(self) -> bool:
        """Whether it is a video file."""
        return not self.pictures

    def exists(self) -> bool:
        """Return True: the index lists it."""
        return True

    def absolute(self) -> str:
        """Return the whole path, or the address."""
        return address_of(str(self)) or os.path.abspath(str(self))

    def open(self) -> Window:
        """Open its bytes for reading.

        Raises:
            FileError: the shard is missing, or has another size than the index says.
            RuntimeError: the shard is at an address that cannot be read.
        """
        if self.shard.remote:
            return Window(_download(self), 0, self.length, self.name)
        try:
            file = _open_shard(self.shard)
        except OSError as error:
            raise FileError(str(self), f"{self.shard}: {error.strerror or error}") from None
        return Window(file, self.start, self.length, self.name)

    def is_intact(self) -> bool:
        """Whether its bytes are those that were packed."""
        with self.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256

    def read_pictures(self) -> PictureFiles:
        """List the pictures of a folder."""
        return PictureFiles(self)


class PictureFiles:
    """The pictures of a packed folder: iterate for their paths, and `read` one.

    Raises:
        FileError: these are not the bytes that were packed.
    """

    def __init__(self, video: PackedVideo) -> None:
        self._file = video.open()
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                # a member is KEY.NAME, and a key has no dot in its last part
                self._places = {
                    Path(member.name.rpartition("/")[2].partition(".")[2]): member
                    for member in tar.getmembers()
                }
        except tarfile.TarError:
            raise FileError(str(video), f"{video.shard} has other bytes than its index") from None

    def __iter__(self):
        return iter(self._places)

    def read(self, picture: Path) -> bytes:
        """Read the bytes of a picture."""
        member = self._places[picture]
        self._file.seek(member.offset_data)
        return self._file.read(member.size)


@lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(shard: Shard) -> Descriptor:
    file = Descriptor(os.open(shard.folder / shard.name, os.O_RDONLY | getattr(os, "O_BINARY", 0)))
    size = os.fstat(file.number).st_size
    if size != shard.size:
        raise OSError(f"it has {size:,} bytes, and {shard.size:,} by its index: copy it again")
    return file


@lru_cache(maxsize=1)  # a video may be opened several times in a row
def _download(video: PackedVideo) -> Descriptor:
    """Copy a video from an address into a temporary file without a name."""
    shard, stop = video.shard, video.start + video.length
    for _ in range(TRIES):
        digest = hashlib.sha256()
        with tempfile.TemporaryFile() as file:
            for start in range(video.start, stop, BLOCK):
                data = read_range(str(shard), start, min(start + BLOCK, stop), shard.size)
                digest.update(data)
                file.write(data)
            file.flush()
            if digest.hexdigest() == video.sha256:
                return Descriptor(os.dup(file.fileno()))
    raise FileError(str(video), f"{shard} gave other bytes than were packed, {TRIES} times")
