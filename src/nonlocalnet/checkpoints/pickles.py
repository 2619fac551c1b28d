"""Read untrusted pickles without running any code in them.

A pickle is a program. Only the functions that rebuild arrays are allowed, by name, and each name
stands for a harmless function of our own. No memory is allocated for numbers that the file does
not contain, and every dictionary key is checked before it is hashed. torch's own reader
(`weights_only`) does not guarantee this: it hashes nested tuples, which can take forever.
"""

from __future__ import annotations

import math
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, ClassVar

import torch

from nonlocalnet.checkpoints.lazy_tensor import (
    MAX_SIZE,
    LazyTensor,
    Refused,
    Storage,
    sizes,
    view,
)

DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
MAX_STEPS = 2_000_000  # a ResNet-101 with its momentum has 33,000
WHOLE = (
    "; if it is a whole network, of torch.save(model), save its parameters where it was made: "
    "torch.save(model.state_dict(), file)"
)
STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_pickle(file: IO[bytes], persistent_load: Callable[[tuple], Storage] | None = None) -> Any:
    """Read the next pickle in an open file. Arrays become `LazyTensor`.

    Strings of Python 2 stay bytes. Containers are plain dicts, lists and tuples.

    Args:
        file: positioned at the pickle; afterwards it is positioned after it.
        persistent_load: looks up torch's persistent ids; None refuses them.

    Raises:
        ValueError: the file is cut off or damaged, or contains something other than arrays,
            numbers, strings and containers, which is named.
    """
    try:
        return _Unpickler(file, persistent_load).load()
    except Refused as error:
        raise ValueError(str(error)) from None
    except EOFError:
        raise ValueError("it is cut off") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"it is damaged ({type(error).__name__}: {str(error)[:80]})") from None


def text_of(value: Any) -> str:
    """Decode a string of Python 2 or 3; refuse anything else, whose text could be endless."""
    if not isinstance(value, (str, bytes)):
        raise Refused(f"it has a {type(value).__name__} where a string belongs")
    return value.decode("latin1") if isinstance(value, bytes) else value


class _Dtype:
    """Stand for numpy.dtype: a kind and a byte order."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name, self.little = text_of(name).lstrip("<=|"), True
        if self.name.startswith(">"):
            self.name, self.little = self.name[1:], False
        if self.name not in DTYPES:
            raise Refused(f"it has an array of {self.name[:20]!r}; only plain numbers are allowed")

    def __setstate__(self, state: tuple) -> None:
        self.little = text_of(state[1]) != ">"


class _Array:
    """Stand for numpy.ndarray: shape, dtype, order and bytes."""

    entry: LazyTensor | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        self.entry = _array(raw, dtype, shape, fortran)


def _array(raw: Any, dtype: Any, shape: Any, fortran: Any) -> LazyTensor:
    if not isinstance(dtype, _Dtype) or not isinstance(raw, (bytes, bytearray, memoryview)):
        raise Refused("it has an array of Python objects; only plain numbers are allowed")
    kind = DTYPES[dtype.name]

    def read() -> bytearray:
        data = bytearray(raw)
        if not dtype.little and kind.itemsize > 1:
            for i in range(kind.itemsize // 2):
                j = kind.itemsize - 1 - i
                data[i :: kind.itemsize], data[j :: kind.itemsize] = (
                    data[j :: kind.itemsize],
                    data[i :: kind.itemsize],
                )
        return data

    shape, stride, step = sizes(shape), [], 1
    for n in shape if fortran else reversed(shape):
        stride.append(step)
        step *= n
    numel, rest = divmod(len(raw), kind.itemsize)
    if rest or numel != math.prod(shape):
        raise Refused(f"it has an array {shape} of {len(raw)} bytes, which does not fit")
    stride = [min(step, MAX_SIZE - 1) for step in stride]  # strides of an empty array mean nothing
    return view(Storage(kind, numel, read), 0, shape, stride if fortran else stride[::-1])


class _Forgotten:
    """Stand for objects of trainers that are allowed and ignored."""

    def __init__(self, *_: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...


def _encode(text: str, encoding: Any = "latin1", *_: Any) -> bytes:
    if text_of(encoding) not in ("latin1", "latin-1"):
        raise Refused("it has bytes in an unknown encoding")
    return text.encode("latin1")


def _reconstruct(*_: Any) -> _Array:  # the shape given here could allocate any amount of memory
    return _Array()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> LazyTensor:
    return _array(raw, dtype, shape, text_of(order) == "F")


def _scalar(dtype: Any, raw: Any = b"") -> LazyTensor:
    return _array(raw, dtype, (), False)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> LazyTensor:
    return view(storage, offset, shape, stride)


def _rebuild_parameter(data: Any, *_: Any) -> LazyTensor:
    return data


def _ordered(pairs: Any = ()) -> OrderedDict:
    result: OrderedDict = OrderedDict()
    if not isinstance(pairs, (tuple, list)):
        raise Refused("it has a dictionary that makes no sense")
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise Refused("it has a dictionary that makes no sense")
        _set(result, *pair)
    return result


def _set(target: Any, key: Any, value: Any) -> None:
    """Set an item; keys must be strings or integers, which are hashed in a short time."""
    if not isinstance(target, dict):
        raise Refused(f"it changes a {type(target).__name__}, which weights never do")
    if type(key) not in (str, bytes, int):
        raise Refused(
            f"it has a {type(key).__name__} as a key; only strings and integers are allowed"
        )
    if key in target:
        name = key.decode("latin1") if isinstance(key, bytes) else key
        raise Refused(f"it has {str(name)[:80]!r} twice")
    target[key] = value


def _no_bytes() -> bytes:
    return b""


def _attribute(target: Any, name: Any) -> Any:
    if target is not _Forgotten:
        raise Refused("it asks for an attribute, which is not needed to hold weights")
    return _Forgotten


def _names(modules: tuple[str, ...], name: str, value: Any) -> dict[tuple[str, str], Any]:
    return {(module, name): value for module in modules}


_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
ALLOWED: dict[tuple[str, str], Any] = {
    **_names(_MULTIARRAY, "_reconstruct", _reconstruct),
    **_names(_MULTIARRAY, "scalar", _scalar),
    **_names(("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer", _frombuffer),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **_names(("__builtin__", "builtins"), "bytes", _no_bytes),
    **_names(("__builtin__", "builtins"), "getattr", _attribute),
    ("collections", "OrderedDict"): _ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
    # options and schedules of trainers, beside the parameters
    ("argparse", "Namespace"): _Forgotten,
    ("collections", "Counter"): _Forgotten,
    **_names(("pathlib", "pathlib._local"), "PosixPath", _Forgotten),
    **_names(("pathlib", "pathlib._local"), "WindowsPath", _Forgotten),
    # MMAction2's unpublished checkpoints
    ("mmengine.logging.history_buffer", "HistoryBuffer"): _Forgotten,
}


class _Unpickler(pickle._Unpickler):  # in Python: the one in C allocates what the file claims
    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)
    steps = 0
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: IO[bytes], persistent_load: Callable | None) -> None:
        super().__init__(_Bounded(file), encoding="bytes")
        self._load_persistent = persistent_load

    def load(self) -> Any:
        return _plain(super().load())

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            what = f"it asks for {module[:60]}.{name[:60]}, which is not needed to hold weights"
            hint = WHOLE if name[:1].isupper() else ""  # a class, not a function
            raise Refused(f"{what}; nothing in it was run{hint}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        if self._load_persistent is None:
            raise Refused("it refers to data outside of it")
        return self._load_persistent(pid)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, (_Array, _Dtype, _Forgotten)):
            target.__setstate__(state)
        elif not isinstance(target, OrderedDict):  # its attributes are versions of torch: ignored
            raise Refused(f"it changes a {type(target).__name__}, which weights never do")

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self) -> None:  # Python's allocates the memory first
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_dict(self) -> None:
        items, result = self.pop_mark(), {}
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(result, key, value)
        self.append(result)

    dispatch[pickle.DICT[0]] = load_dict

    def load_set(self) -> None:
        raise Refused("it has a set, which weights never are")

    dispatch[pickle.EMPTY_SET[0]] = dispatch[pickle.FROZENSET[0]] = load_set

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set(self.stack[-1], key, value)

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(self.stack[-1], key, value)

    dispatch[pickle.SETITEMS[0]] = load_setitems


def _counted(step: Callable[[Any], None]) -> Callable[[Any], None]:
    """Count an instruction: instructions of one byte could create endless objects."""

    def counted(self: _Unpickler) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Refused(f"it has over {MAX_STEPS:,} instructions, more than any known file")
        step(self)

    return counted


_Unpickler.dispatch = {code: _counted(step) for code, step in _Unpickler.dispatch.items()}


class _Bounded:
    """A file from which no more is requested than it has."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_CUR) + _left(file)

    def read(self, size: int) -> bytes:
        if size > self.size - self.file.tell():
            raise EOFError
        return self.file.read(size)

    def readline(self) -> bytes:
        return self.file.readline()


def _left(file: IO[bytes]) -> int:
    here = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(here)
    return end - here


def _plain(value: Any) -> Any:
    """Replace stand-ins by arrays, once each, also where an object contains itself."""
    done: dict[int, Any] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, _Array):
            return value.entry
        if not isinstance(value, (dict, list, tuple)):
            return value
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, dict):
            done[id(value)] = result = {}
            for key, item in value.items():
                result[key] = walk(item)
        elif isinstance(value, list):
            done[id(value)] = result = []
            result.extend(walk(item) for item in value)
        else:
            result = tuple(walk(item) for item in value)
            done[id(value)] = result
        return result

    return walk(value)
