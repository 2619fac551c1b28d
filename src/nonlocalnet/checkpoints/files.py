"""Open checkpoint files of any container safely; tensors are read one at a time, when needed."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from nonlocalnet.checkpoints import checksum, mxnet_params
from nonlocalnet.checkpoints.lazy_tensor import MAX_SIZE, LazyTensor, Refused, Storage
from nonlocalnet.checkpoints.pickles import read_pickle, text_of
from nonlocalnet.checkpoints.zoo import RELEASES
from nonlocalnet.errors import FileError, errors_about, printable

KEY = "nonlocalnet"  # of the description in the metadata of our files
MAX_NAME = 200  # characters
MAX_MESSAGE = 200  # characters of what a library says about a damaged file
MAX_TENSORS = 20_000  # a ResNet-101 with its momentum has under 1,000
MAX_PICKLE = 8 << 30  # bytes; a pickle is read as a whole, the largest known has 0.5 GB
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first number in torch's files before version 1.6
TORCH_PROTOCOL = 1001
ST_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# Files that people mistake for a checkpoint, by their first bytes.
OTHERS = {
    b"": "is empty",
    b"version https://git-lfs": "is a Git LFS pointer: fetch the file itself with `git lfs pull`",
    b"<": "is a web page, not weights: the download went wrong",
    b"\x1f\x8b": "is an archive: unpack it and name the file in it",
    b"BZh": "is an archive: unpack it and name the file in it",
    b"\x89HDF": "is HDF5 (Keras), which is not supported",
    b"\x89PNG": "is a picture",
    b"\xff\xd8\xff": "is a picture",
    b"{": "is JSON, not weights",
}


@dataclass
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        path: of the file.
        container: "safetensors", "torch", "mxnet" or "pickle".
        tensors: name -> tensor.
        others: name -> number, text, list or dict at the same level.
        meta: what is stored beside the tensors: training state, configuration, metadata.
        beside: other copies of the weights in the file -> why they are not used.
    """

    path: Path
    container: str
    tensors: dict[str, LazyTensor]
    others: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Open a checkpoint.

    A file with a checksum, as ours have, must consist of the bytes that the checksum was made of.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint, is damaged, or contains something that weights
            never need.
    """
    path = Path(path)
    if not path.is_file():
        hint, run = "", path / "best.safetensors"
        if run.is_file():
            hint = f": it is the folder of a run, whose weights are {run}"
        elif any(release.name == os.fspath(path) for release in RELEASES):
            hint = f"; it is a release: `nonlocalnet zoo get {path}` downloads it"
        raise FileNotFoundError(f"no weights file at {path}{hint}")
    with errors_about(path):
        checkpoint = _read(path)
        signed = checkpoint.container != "pickle" and checksum.check(path)
        if KEY in checkpoint.meta and not signed and checksum.is_named(checkpoint.meta):
            raise ValueError("it is damaged: its checksum cannot be read")
        return checkpoint


def _read(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        head = file.read(64)
        if _is_safetensors(head, path):
            return _safetensors(path)
        for start, what in OTHERS.items():
            if head.startswith(start) if start else not head:
                raise ValueError(f"it {what}")
        if head[:4] == b"PK\x03\x04":
            return _torch_zip(path)
        if head.startswith(mxnet_params.MAGIC):
            return Checkpoint(path, "mxnet", dict(mxnet_params.read_params(path)))
        if head[:1] not in b"\x80(}c]":
            raise ValueError(
                "it is no weights file: neither safetensors, nor torch's, nor MXNet's, nor a "
                "pickle of arrays"
            )
        if path.stat().st_size > MAX_PICKLE:
            raise ValueError(
                f"it has over {MAX_PICKLE >> 30} GiB, more than any known network needs"
            )
        file.seek(0)
        first = read_pickle(file)
        if first == TORCH_MAGIC:
            return _torch_legacy(path, file)
    content = first
    if isinstance(content, dict) and list(content) in (["blobs"], [b"blobs"]):
        content = next(iter(content.values()))
    return _checkpoint(path, "pickle", content, {})


def _checkpoint(path: Path, container: str, content: Any, meta: Mapping[str, Any]) -> Checkpoint:
    if not _has_tensors(content):
        raise ValueError("it holds no arrays by name")
    tensors, others = {}, {}
    for name, value in _names(content).items():
        (tensors if isinstance(value, LazyTensor) else others)[name] = value
    _check_count(len(content))
    return Checkpoint(path, container, tensors, others, dict(meta))


def _check_count(tensors: int) -> None:
    if tensors > MAX_TENSORS:
        raise ValueError(f"it has {tensors:,} tensors, more than any known network")


def _name(key: Any) -> str:
    """Return the name of a tensor, which must be printable."""
    name = str(key) if type(key) is int else text_of(key)
    if len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"it has a name that cannot be one: {name[:40]!r}")
    return name


def _names(content: dict[Any, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in content.items():
        name = _name(key)
        if name in result:
            raise ValueError(f"it has {name!r} twice")
        result[name] = value
    return result


# --- safetensors


def _is_safetensors(head: bytes, path: Path) -> bool:
    """Look for the length of the header in eight bytes, then the header, which is JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _safetensors(path: Path) -> Checkpoint:
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        problem = printable(error, MAX_MESSAGE)
        raise ValueError(f"it is a damaged safetensors file: {problem}") from None
    tensors = {}
    _check_count(len(file.keys()))
    for name in map(_name, file.keys()):
        part = file.get_slice(name)
        dtype = ST_DTYPES.get(part.get_dtype())
        if dtype is None:
            raise ValueError(f"{name!r} is {part.get_dtype()}, which no network here uses")

        def read(name: str = name) -> torch.Tensor:
            return file.get_tensor(name)

        tensors[name] = LazyTensor(tuple(part.get_shape()), dtype, read)
    return Checkpoint(path, "safetensors", tensors, meta=dict(file.metadata() or {}))


# --- torch's files: a zip since version 1.6, pickles and raw numbers before


# Errors of damaged zip files: cut off, an unknown method, a password, undecodable names ...
ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    UnicodeError,
    OSError,
    EOFError,
    OverflowError,
    struct.error,
)


def _torch_zip(path: Path) -> Checkpoint:
    try:
        return _read_zip(path, zipfile.ZipFile(path))
    except ZIP_ERRORS as error:
        raise ValueError(f"it is a damaged zip file: {printable(error, MAX_MESSAGE)}") from None


def _read_zip(path: Path, archive: zipfile.ZipFile) -> Checkpoint:
    members = archive.infolist()
    by_name = {member.filename: member for member in members}
    if any(name.endswith("constants.pkl") for name in by_name):
        raise ValueError("it is a TorchScript program: save the network's state_dict instead")
    pickles = [name for name in by_name if name.endswith("data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it is a zip file, but not one of torch's")
    if len(by_name) != len(members):
        raise ValueError("its zip directory lists a file twice")
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise ValueError("it is compressed, which torch's files never are")
    if sum(m.file_size for m in members) > path.stat().st_size:
        raise ValueError("its zip directory promises more bytes than the file has")
    root = pickles[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in by_name and archive.read(order) != b"little":
        raise ValueError("its numbers are big-endian, which is not supported")

    def persistent_load(pid: Any) -> Storage:
        dtype, key, numel = _storage_id(pid)
        member = by_name.get(f"{root}data/{key}")
        if member is None or member.file_size != numel * dtype.itemsize:
            raise Refused(f"its storage {key[:20]!r} is missing or has another size than it says")

        def read() -> bytearray:
            return _read_bytes(lambda: archive.open(member), member.file_size, path)

        return Storage(dtype, numel, read)

    with archive.open(pickles[0]) as file:
        return _unwrap(path, read_pickle(file, persistent_load))


def _torch_legacy(path: Path, file: BinaryIO) -> Checkpoint:
    storages: dict[str, list] = {}  # key -> dtype, numel, offset; the offset is known last

    def persistent_load(pid: Any) -> Storage:
        dtype, key, numel = _storage_id(pid)
        if len(pid) > 5 and pid[5] is not None:
            raise Refused("it has views of storages, a format that torch gave up long ago")
        known = storages.setdefault(key, [dtype, numel, None])
        if known[:2] != [dtype, numel]:
            raise Refused(f"its storage {key[:20]!r} has two sizes")

        def read() -> bytearray:
            def there() -> BinaryIO:
                again = path.open("rb")
                again.seek(known[2])
                return again

            return _read_bytes(there, numel * dtype.itemsize, path)

        return Storage(dtype, numel, read)

    if read_pickle(file) != TORCH_PROTOCOL:
        raise ValueError("it is a torch file of an unknown protocol")
    system = read_pickle(file)
    if not isinstance(system, dict) or not system.get(
        "little_endian", system.get(b"little_endian")
    ):
        raise ValueError("its numbers are big-endian, which is not supported")
    content = read_pickle(file, persistent_load)
    keys = read_pickle(file)
    size, place = path.stat().st_size, file.tell()
    names = [_name(key) for key in keys] if isinstance(keys, list) else []
    if sorted(names) != sorted(storages):
        raise ValueError("its list of storages does not match its tensors")
    for key in names:
        dtype, numel, _ = storages[key]
        file.seek(place)
        if int.from_bytes(file.read(8), "little") != numel:
            raise ValueError("it is cut off, or its storages have other sizes than stated")
        storages[key][2] = place + 8
        place += 8 + numel * dtype.itemsize
    if place > size:
        raise ValueError("it is cut off")
    return _unwrap(path, content)


def _storage_id(pid: Any) -> tuple[torch.dtype, str, int]:
    if not (
        isinstance(pid, tuple)
        and len(pid) >= 5
        and text_of(pid[0]) == "storage"
        and isinstance(pid[1], torch.dtype)
        and type(pid[4]) is int
        and 0 <= pid[4] < MAX_SIZE
    ):
        raise Refused("it refers to data in a way that torch never does")
    return pid[1], text_of(pid[2]), pid[4]


def _read_bytes(start: Callable[[], Any], size: int, path: Path) -> bytearray:
    """Read `size` bytes; raise if they are missing or have changed."""
    data = bytearray(size)
    view, done = memoryview(data), 0
    try:
        with start() as file:
            while done < size and (count := file.readinto(view[done:])):
                done += count
            if done == size:
                file.read(1)  # at the end of a member, zipfile compares its checksum
    except ZIP_ERRORS:
        done = -1
    if done != size:
        raise FileError(path, "it is damaged: numbers are missing or have changed")
    return data


# Where projects store the parameters in their files; running averages last.
LEVELS = (
    "model_state",
    "state_dict",
    "model",
    "model_state_dict",
    "module",
    "net",
    "network",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema_model",
    "ema",
)


def _unwrap(path: Path, content: Any) -> Checkpoint:
    if not isinstance(content, dict):
        raise ValueError("it holds no arrays by name")
    content = _names(content)
    levels = [level for level in LEVELS if _has_tensors(content.get(level))]
    if not levels:
        return _checkpoint(path, "torch", content, {})
    level, *others = levels
    meta = {key: value for key, value in content.items() if key != level}
    checkpoint = _checkpoint(path, "torch", content[level], meta)
    checkpoint.beside = dict.fromkeys(others, f"another copy of the weights; {level!r} is used")
    return checkpoint


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, LazyTensor) for v in value.values())
