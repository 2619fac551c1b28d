"""Store a checksum in a file, so that a change of any bit is found.

The file contains `crc32:` and eight hexadecimal digits: the CRC-32 of all its bytes, with these
digits counted as zeros. In a zip file, such as torch's, it is the comment at the end; in a
safetensors file it is the value of `checksum` in the metadata. Other readers are not affected.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Mapping

KEY = "checksum"  # in the metadata of a safetensors file
MARK = b"crc32:"
EMPTY = b"0" * 8
UNSIGNED = (MARK + EMPTY).decode()  # what a file contains before it is signed
ZIP = b"PK\x03\x04"


def sign(path: str | os.PathLike) -> None:
    """Write the checksum into a zip file, or a safetensors file that contains `UNSIGNED`."""
    with open(path, "r+b") as file:
        if file.read(len(ZIP)) == ZIP:
            file.seek(-2, os.SEEK_END)  # the length of the comment, and no comment yet
            file.write(len(UNSIGNED).to_bytes(2, "little") + UNSIGNED.encode())
            file.flush()
        with mmap.mmap(file.fileno(), 0) as data:
            place = _find(data)
            assert place is not None
            data[place : place + len(EMPTY)] = _compute(data, place)


def check(path: str | os.PathLike) -> bool:
    """Tell whether a file has a checksum, and check it.

    Raises:
        ValueError: the checksum does not match.
    """
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            place = _find(data)
            if place is not None and data[place : place + len(EMPTY)] != _compute(data, place):
                raise ValueError(
                    "it is damaged: its bytes are not those that its checksum was made of"
                )
            return place is not None


def is_named(meta: Mapping[str, str]) -> bool:
    """Tell whether metadata contain a checksum, or a damaged one."""
    return KEY in meta or any(value.startswith(MARK.decode()) for value in meta.values())


def _find(data: mmap.mmap) -> int | None:
    """Find the offset of the digits."""
    length = len(MARK) + len(EMPTY)
    if data[: len(ZIP)] == ZIP:
        return len(data) - len(EMPTY) if data[-length:].startswith(MARK) else None
    header = int.from_bytes(data[:8], "little")
    start = f'"{KEY}":"'.encode() + MARK  # a text within the header would have its quotes escaped
    place = data.find(start, 8, min(8 + header, len(data)))
    return None if place < 0 else place + len(start)


def _compute(data: mmap.mmap, place: int) -> bytes:
    with memoryview(data) as view, view[:place] as before, view[place + len(EMPTY) :] as after:
        return b"%08x" % zlib.crc32(after, zlib.crc32(EMPTY, zlib.crc32(before)))
