"""A part of a file as a file of its own, for readers that know nothing of what lies around it."""

from __future__ import annotations

import io
import os


class Descriptor:
    """An open file that is closed when nothing uses it any more.

    Args:
        number: of the open file.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class Window(io.RawIOBase):
    """Read the bytes from `start` to `start + length` of an open file.

    Reading does not move the position of the file itself, so many windows, also in forked
    processes, may share it.

    Args:
        file: the open file.
        start, length: bytes.
        name: of the window; FFmpeg recognizes some formats by it.
    """

    def __init__(self, file: Descriptor, start: int, length: int, name: str) -> None:
        super().__init__()
        self.name = name
        self._file, self._start, self._length, self._place = file, start, length, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes, by default all that follow."""
        left = max(0, self._length - self._place)
        wanted = left if size is None or size < 0 else min(size, left)
        data = os.pread(self._file.number, wanted, self._start + self._place)
        self._place += len(data)
        return data

    def readinto(self, buffer, /) -> int:
        """Fill a buffer as far as there are bytes; returns how many."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place in the window."""
        self._place = max(0, offset + (0, self._place, self._length)[whence])
        return self._place

    def tell(self) -> int:
        """Return the place in the window."""
        return self._place
