"""Read MXNet's `.params` files: a list of dense arrays, then the list of their names.

All numbers are little-endian. The file is not trusted: every size is compared with what is left of
the file before it is used.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

import torch

from nonlocalnet.checkpoints.lazy_tensor import MAX_DIMS, LazyTensor
from nonlocalnet.errors import FileError

MAGIC = (0x112).to_bytes(8, "little")  # begins a file
V2, V3 = 0xF993FAC9, 0xF993FACA  # begin an array, of MXNet 1.x and of its NumPy mode
# Numbers of MXNet's dtypes.
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.uint8,
    torch.int32,
    torch.int8,
    torch.int64,
)
MAX_ARRAYS, MAX_NAME = 20_000, 200
KINDS = ("arg:", "aux:")  # begin names in files of symbols


def read_params(path: Path) -> dict[str, LazyTensor]:
    """List the arrays of a file by name; their numbers are read when needed.

    Raises:
        ValueError: the file is damaged, has sparse arrays, or is of a version before 1.0.
    """
    with path.open("rb") as file:
        reader = _Reader(file, path.stat().st_size)
        reader.numbers("<QQ")  # magic, reserved
        arrays = [_read_array(reader, path) for _ in range(reader.count())]
        names = [reader.text() for _ in range(reader.count())]
        left = reader.left()
    if len(names) != len(arrays) or left:
        raise ValueError("its list of names does not match its arrays")
    bare = [name.removeprefix(next((k for k in KINDS if name.startswith(k)), "")) for name in names]
    if len(set(bare)) != len(bare):
        raise ValueError("it has a name twice")
    return dict(zip(bare, arrays, strict=True))


class _Reader:
    """Read numbers, and check that the file has them."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def left(self) -> int:
        """Return the bytes after the position."""
        return self.size - self.file.tell()

    def take(self, size: int) -> bytes:
        if size > self.left():
            raise ValueError("it is cut off, or its arrays have other sizes than stated")
        return self.file.read(size)

    def numbers(self, format: str) -> tuple[int, ...]:
        return struct.unpack(format, self.take(struct.calcsize(format)))

    def count(self) -> int:
        (count,) = self.numbers("<Q")
        if count > MAX_ARRAYS:
            raise ValueError(f"it has {count:,} arrays, more than any known network")
        return count

    def text(self) -> str:
        (size,) = self.numbers("<Q")
        name = self.take(min(size, MAX_NAME + 1)).decode("utf-8", "replace")
        if size > MAX_NAME or not name.isprintable():
            raise ValueError(f"it has a name that cannot be one: {name[:40]!r}")
        return name

    def skip(self, size: int) -> int:
        """Skip bytes that must be there; return where they start."""
        start = self.file.tell()
        if size > self.left():
            raise ValueError("it is cut off, or its arrays have other sizes than stated")
        self.file.seek(start + size)
        return start


def _read_array(reader: _Reader, path: Path) -> LazyTensor:
    version, storage = reader.numbers("<Ii")
    if version not in (V2, V3):
        raise ValueError("its arrays are of a version of MXNet before 1.0, which is not supported")
    (axes,) = reader.numbers("<i")
    if storage != 0 or not 0 < axes <= MAX_DIMS:
        raise ValueError("it has a sparse or an empty array, which weights never are")
    shape = reader.numbers(f"<{axes}q")
    _, _, kind = reader.numbers("<iii")  # device, its number, dtype
    if not 0 <= kind < len(DTYPES) or min(shape) < 0:
        raise ValueError("it has an array that makes no sense")
    dtype = DTYPES[kind]
    size = math.prod(shape) * dtype.itemsize
    start = reader.skip(size)

    def read() -> torch.Tensor:
        with path.open("rb") as file:
            file.seek(start)
            data = bytearray(file.read(size))
        if len(data) != size:
            raise FileError(path, "it is damaged: numbers are missing or have changed")
        return torch.frombuffer(data, dtype=dtype).reshape(shape)

    return LazyTensor(shape, dtype, read)
