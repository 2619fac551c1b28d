"""Hostile and damaged files: refused by name, with nothing run and no memory taken."""

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from nonlocalnet.checkpoints.files import read_checkpoint

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "big_endian": np.arange(3, dtype=">f8"),
    "fortran": np.asfortranarray(np.arange(12, dtype=np.float16).reshape(3, 4)),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.float32(0.1),
    "zero_d": np.array(7, dtype=np.int64),
    "flags": np.array([True, False]),
}


def written(tmp_path, data: bytes, name="x.pkl") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"blobs": d}, lambda d: {b"blobs": d}])
@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_and_container(tmp_path, protocol, wrap):
    path = written(tmp_path, pickle.dumps(wrap(dict(ARRAYS, model_iter=3)), protocol))
    checkpoint = read_checkpoint(path)
    assert checkpoint.others == {"model_iter": 3}
    assert list(checkpoint.tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        entry = checkpoint.tensors[name]
        value = entry.read()
        assert entry.shape == tuple(value.shape) == np.shape(array)
        assert entry.dtype == value.dtype
        np.testing.assert_array_equal(value.numpy(), array)


def test_the_given_samples_of_python_2(oracle):
    # written by Python 2.7 with the containers and types of official files (oracle README)
    training = read_checkpoint(oracle / "format" / "training_checkpoint_protocol2.pkl")
    assert len(training.tensors) + len(training.others) == 540
    assert training.others == {"model_iter": 400000}
    assert training.tensors["lr"].shape == ()
    frozen = read_checkpoint(oracle / "format" / "converted_affine_protocol0.pkl")
    assert (len(frozen.tensors), frozen.others) == (161, {})
    for path, checkpoint in (
        ("training_checkpoint_protocol2.pkl", training),
        ("converted_affine_protocol0.pkl", frozen),
    ):
        with (oracle / "format" / path).open("rb") as file:
            theirs = pickle.load(file, encoding="latin1")  # an outside reader
        theirs = theirs.get("blobs", theirs)
        for name, entry in checkpoint.tensors.items():
            np.testing.assert_array_equal(entry.read().numpy(), theirs[name])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("level", [None, "model_state", "state_dict", "model"])
def test_torch_files_new_and_old(tmp_path, level, legacy):
    shared = torch.arange(24.0)
    state = OrderedDict(
        a=shared[2:14].view(3, 4).t(),
        b=shared[:6],
        half=torch.randn(3).bfloat16(),
        count=torch.tensor(5),
        parameter=torch.nn.Parameter(torch.ones(2)),
        empty=torch.empty(0, 4),
    )
    state._metadata = {"": {"version": 1}}  # ty: ignore[unresolved-attribute]
    content = state if level is None else {level: state, "epoch": 3, "cfg": "A: 1"}
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(path)
    assert checkpoint.container == "torch"
    assert checkpoint.meta == ({} if level is None else {"epoch": 3, "cfg": "A: 1"})
    assert list(checkpoint.tensors) == list(state)
    for name, value in state.items():
        entry = checkpoint.tensors[name]
        assert (entry.shape, entry.dtype) == (tuple(value.shape), value.dtype)
        assert torch.equal(entry.read(), value)


# --- what is run, or would be


class Evil:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def gadget(code: bytes) -> bytes:
    """A pickle by hand, around an innocent array."""
    innocent = pickle.dumps(ARRAYS["a"], 2)[2:-1]  # without header and stop
    return b"\x80\x02}(U\x01a" + innocent + b"U\x01b" + code + b"u."


HOSTILE = {
    "os.system": pickle.dumps({"a": Evil(os.system, "touch {mark}")}, 2),
    "eval": pickle.dumps({"a": Evil(eval, "open('{mark}', 'w')")}, 4),
    "instance": gadget(b"(S'touch {mark}'\nios\nsystem\n"),
    "object": gadget(b"(cos\nsystem\nS'touch {mark}'\no"),
    "new object": gadget(b"csubprocess\nPopen\n)\x81"),
    "stack global": gadget(b"\x8c\x05posix\x8c\x06system\x93"),
    "dotted": gadget(b"\x8c\x05numpy\x8c\x16ndarray.__class__.mro\x93"),
    "getattr": gadget(b"c__builtin__\ngetattr\n(cnumpy\nndarray\nU\x07__mro__tR"),
    "numpy load": gadget(b"cnumpy\nload\n(U\x01xtR"),
    "numpy runstring": gadget(b"cnumpy.testing._private.utils\nrunstring\n(U\x01xNtR"),
    "torch load": gadget(b"ctorch\nload\n(U\x01xtR"),
    "torch hub": gadget(b"ctorch.hub\nload\n(U\x01xU\x01ytR"),
    "extension": gadget(b"\x82\x01"),
    "persistent id": gadget(b"Pabc\n"),
    "set a class": gadget(b"cnumpy\nndarray\n}U\x05entryK\x01sb"),
    "set a function": gadget(b"c_codecs\nencode\n(N}U\x0c__defaults__K\x01stb"),
    "objects in an array": pickle.dumps({"a": np.array([Evil(os.system, "touch {mark}")])}, 2),
    "objects by dtype": pickle.dumps({"a": np.array([{}, None], dtype=object)}, 2),
    "records": pickle.dumps({"a": np.zeros(2, dtype=[("x", "f4")])}, 2),
    "dates": pickle.dumps({"a": np.zeros(2, "datetime64[s]")}, 2),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_in_a_pickle_is_run(tmp_path, case):
    mark = tmp_path / "m"  # of the same length as its placeholder would need: a short name
    data = HOSTILE[case]
    if b"{mark}" in data:
        os.chdir(tmp_path)
        data = data.replace(b"{mark}", b"mmmmmm")
        mark = tmp_path / "mmmmmm"
    with pytest.raises(ValueError, match=r"x\.pkl: it ") as error:
        read_checkpoint(written(tmp_path, data))
    assert not mark.exists()
    assert error.value.__cause__ is None
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["os.system", "eval"])
def test_the_gadgets_would_work_on_an_ordinary_reader(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE[name].replace(b"{mark}", b"mmmmmm"))
    assert (tmp_path / "mmmmmm").exists()


def test_what_is_refused_is_named(tmp_path):
    data = HOSTILE["os.system"].replace(b"{mark}", b"mmmmmm")
    with pytest.raises(ValueError, match=r"asks for posix\.system, .* nothing in it was run"):
        read_checkpoint(written(tmp_path, data))


def test_nothing_in_a_torch_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": {"a": torch.ones(2)}, "x": Evil(os.system, "touch mmmmmm")}
    for legacy in (False, True):
        torch.save(content, "x.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match=r"asks for posix\.system"):
            read_checkpoint(Path("x.pth"))
    assert not Path("mmmmmm").exists()


# --- time without end: a tuple of twice itself, forty times, has 2^40 leaves

TWICE = b"K\x00K\x01\x86" + b"2\x86" * 40
ENDLESS = {
    "key": b"\x80\x02}" + TWICE + b"K\x01s.",
    "keys": b"\x80\x02}(" + TWICE + b"K\x01u.",
    "dictionary": b"\x80\x02(" + TWICE + b"K\x01d.",
    "frozen set": b"\x80\x04(" + TWICE + b"\x91.",
    "set": b"\x80\x04\x8f(" + TWICE + b"\x90.",
    "dtype": gadget(b"cnumpy\ndtype\n(" + TWICE + b"tR"),
    "encoding": gadget(b"c_codecs\nencode\n(X\x01\0\0\0a" + TWICE + b"tR"),
    "scalar": gadget(b"cnumpy.core.multiarray\nscalar\n(" + TWICE + b"tR"),
    "ordered": gadget(b"ccollections\nOrderedDict\n((" + TWICE + b"K\x01ttR"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_nothing_is_hashed_or_put_into_words_without_end(tmp_path, case):
    with pytest.raises(ValueError, match=r"x\.pkl: it ") as error:
        read_checkpoint(written(tmp_path, ENDLESS[case]))
    assert len(str(error.value)) < 300


def test_a_storage_without_end_has_no_key(tmp_path):
    class Lie:
        def __reduce__(self):
            key = (0, 1)
            for _ in range(40):
                key = (key, key)
            return torch._utils._rebuild_tensor_v2, (key, 0, (1,), (1,), False, OrderedDict())

    torch.save({"a": Lie()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: it "):
        read_checkpoint(tmp_path / "x.pth")


# --- memory that the file does not hold

BOMBS = {
    "shape of an array": gadget(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(\x8a\x05\x00\x00\x00\x00\x01tU\x01btR"
    ),
    "bytes": gadget(b"\x8e" + struct.pack("<Q", 1 << 31)),
    "text": gadget(b"\x8d" + struct.pack("<Q", 1 << 31)),
    "bytearray": gadget(b"\x96" + struct.pack("<Q", 1 << 31)),
    "bytearray in a frame": b"\x80\x05\x95\x0b\0\0\0\0\0\0\0}\x96" + struct.pack("<Q", 1 << 31),
    "string": gadget(b"T" + struct.pack("<i", 2**31 - 1)),
    "long": gadget(b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "shape of words": gadget(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01(U\x08xxxxxxxxJ\0\0\0\x10tcnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04abcdtb"
    ),
    "many objects": b"\x80\x02(" + b"}" * 6_000_000 + b"l.",
    "memo": gadget(b"Nr" + struct.pack("<I", 2**28)),
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 31) + b"}.",
    "bytes of an array": gadget(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04abcdtb"
    ),
}


MEASURE = """
    import contextlib, pickle, sys
    from nonlocalnet.checkpoints.files import read_checkpoint
    read = read_checkpoint if sys.argv[1] == "ours" else lambda path: pickle.load(open(path, "rb"))
    def peak():
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    for path in sys.argv[2:]:
        before = peak()
        with contextlib.suppress(Exception):
            read(path)
        print(path.rsplit("/", 1)[1], (peak() - before) // 1024)
"""


def peaks(reader: str, paths: list[Path]) -> dict[str, int]:
    """MiB by which each file raises the peak of a process that reads them in turn."""
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), reader, *map(str, paths)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: int(size) for name, size in (line.rsplit(" ", 1) for line in lines)}


def test_memory_is_not_taken_on_a_files_word(tmp_path):
    paths = [written(tmp_path, data, name) for name, data in BOMBS.items()]
    taken = peaks("ours", paths)
    assert len(taken) == len(BOMBS)
    objects = taken.pop("many objects")
    assert objects < 300  # of two million instructions; six take half a gigabyte
    assert {name: size for name, size in taken.items() if size > 64} == {}


@pytest.mark.slow
def test_the_bombs_are_real_to_pythons_own_reader(tmp_path):
    written(tmp_path, BOMBS["memo"], "memo")
    assert peaks("pickle", [tmp_path / "memo"])["memo"] > 1000


def torch_file(tmp_path, rebuild) -> Path:
    """A torch file whose tensor is rebuilt with other arguments than its storage has."""
    path = tmp_path / "x.pth"

    class Lie:
        def __reduce__(self):
            storage = torch.arange(4.0).untyped_storage()
            return torch._utils._rebuild_tensor_v2, rebuild(
                torch.storage.TypedStorage(
                    wrap_storage=storage, dtype=torch.float32, _internal=True
                )
            )

    torch.save({"state_dict": {"a": Lie()}}, path)
    return path


LIES = {
    "more numbers": lambda s: (s, 0, (1 << 40,), (1,), False, OrderedDict()),
    "beyond the end": lambda s: (s, 3, (2,), (1,), False, OrderedDict()),
    "repeated": lambda s: (s, 0, (1 << 40,), (0,), False, OrderedDict()),
    "before the start": lambda s: (s, -1, (2,), (1,), False, OrderedDict()),
    "backwards": lambda s: (s, 3, (2,), (-1,), False, OrderedDict()),
    "one number for all": lambda s: (s, 0, (3,), (0,), False, OrderedDict()),
    "one row for all": lambda s: (s, 0, (2, 3), (0, 1), False, OrderedDict()),
    "rows that overlap": lambda s: (s, 0, (2, 3), (1, 1), False, OrderedDict()),
    "columns that overlap": lambda s: (s, 0, (2, 2), (1, 1), False, OrderedDict()),
    "an offset beyond numbers": lambda s: (s, 1 << 63, (1,), (1,), False, OrderedDict()),
    "sizes beyond numbers": lambda s: (
        s,
        0,
        (1 << 40, 1 << 40, 0),
        (1, 1, 1),
        False,
        OrderedDict(),
    ),
    "many axes": lambda s: (s, 0, (1,) * 100, (1,) * 100, False, OrderedDict()),
    "shape and stride differ": lambda s: (s, 0, (2, 2), (1,), False, OrderedDict()),
    "no number": lambda s: (s, 0, (True,), (1,), False, OrderedDict()),
    "no storage": lambda s: (3, 0, (2,), (1,), False, OrderedDict()),
}


@pytest.mark.parametrize("case", LIES)
def test_tensors_lie_within_their_storage(tmp_path, case):
    with pytest.raises(ValueError, match=r"x\.pth: it has a tensor"):
        read_checkpoint(torch_file(tmp_path, LIES[case]))


def test_true_tensors_pass_the_same_way(tmp_path):
    path = torch_file(tmp_path, lambda s: (s, 1, (3,), (1,), False, OrderedDict()))
    assert read_checkpoint(path).tensors["a"].read().tolist() == [1, 2, 3]


def test_any_order_of_axes_and_any_steps_pass(tmp_path):
    whole = torch.arange(48.0).view(2, 4, 6)
    views = {
        "turned": whole.permute(2, 0, 1),
        "every second": whole[:, ::2, 1::2],
        "one row": whole[1:, 2:3],
        "single": whole[:1, :1, :1].expand(1, 1, 1),
    }
    torch.save(views, tmp_path / "x.pth")
    for name, entry in read_checkpoint(tmp_path / "x.pth").tensors.items():
        assert torch.equal(entry.read(), views[name]), name


def test_what_is_said_of_a_file_cannot_act_on_a_terminal(tmp_path):
    """Names of globals, of files, and what libraries say of a file come from outside."""
    colored = "\x1b[31mred\u202e\r"
    files = {
        "global": gadget(f"c{colored}\n{colored}\n".encode()),
        "safetensors": (40).to_bytes(8, "little")
        + f'{{"{colored}": 3, "a": '.encode().ljust(40)
        + b"0" * 60,
        "text": f"no weights {colored}".encode(),
    }
    for name, data in files.items():
        path = written(tmp_path, data, f"{name}{colored}.pkl")
        with pytest.raises(ValueError, match="it ") as error:
            read_checkpoint(path)
        assert str(error.value).isprintable()
        assert "\\x1b[31mred" in str(error.value)


def rezip(path: Path, change) -> Path:
    """Write a zip again, with members changed: change(name, data) -> (data, compression)."""
    with zipfile.ZipFile(path) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members:
            data, how = change(name, data)
            new.writestr(name, data, compress_type=how)
    return path


def plain_file(tmp_path, numbers=4) -> Path:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(numbers)}, path)
    return path


def test_compressed_zips_are_refused_unread(tmp_path):
    path = rezip(
        plain_file(tmp_path, 1 << 24),
        lambda name, data: (data, zipfile.ZIP_DEFLATED if "/data/" in name else 0),
    )
    assert path.stat().st_size < 1 << 20  # 64 MiB of zeros in little: a bomb
    with pytest.raises(ValueError, match="compressed, which torch's files never are"):
        read_checkpoint(path)


def test_overlapping_members_are_refused(tmp_path):
    path = plain_file(tmp_path, 1 << 16)
    data = path.read_bytes()
    # the central directory names the same bytes once more under another name
    at = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06") if b"PK\x06\x06" not in data else data.index(b"PK\x06\x06")
    directory = data[at:end]
    entries = directory.split(b"PK\x01\x02")[1:]
    big = next(e for e in entries if b"data/0" in e)
    twin = b"PK\x01\x02" + big.replace(b"data/0", b"data/1")
    tail = bytearray(data[data.rindex(b"PK\x05\x06") :])
    count = struct.unpack_from("<H", tail, 8)[0] + 1
    struct.pack_into("<HHI", tail, 8, count, count, len(directory) + len(twin))
    struct.pack_into("<I", tail, 16, at)
    path.write_bytes(data[:end] + twin + bytes(tail))
    with pytest.raises(ValueError, match="promises more bytes than the file has"):
        read_checkpoint(path)


def test_members_twice_are_refused(tmp_path):
    path = plain_file(tmp_path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data/0", b"\0" * 16)
    with pytest.raises(ValueError, match=r"twice|more bytes"):
        read_checkpoint(path)


def test_a_storage_of_another_size_is_refused(tmp_path):
    path = rezip(plain_file(tmp_path), lambda n, d: (d[:8] if n.endswith("data/0") else d, 0))
    with pytest.raises(ValueError, match="another size than it says"):
        read_checkpoint(path)


def test_changed_numbers_are_found(tmp_path):
    path = plain_file(tmp_path, 1000)
    data = bytearray(path.read_bytes())
    data[data.index(b"\0" * 4000) + 2000] ^= 1
    path.write_bytes(data)
    entry = read_checkpoint(path).tensors["a"]
    with pytest.raises(ValueError, match=r"x\.pth: it is damaged"):
        entry.read()


def test_zips_of_other_things_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="not one of torch's"):
        read_checkpoint(path)


# --- damage and confusion


def read_all(path) -> None:
    for entry in read_checkpoint(path).tensors.values():
        entry.read()


def files(tmp_path) -> dict[str, bytes]:
    new, old = io.BytesIO(), io.BytesIO()
    state = {"state_dict": {"a": torch.arange(100.0), "b": torch.ones(3, 3)}}
    torch.save(state, new)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    return {
        "new": new.getvalue(),
        "old": old.getvalue(),
        "pickle 2": pickle.dumps({"blobs": {"a": np.ones(50, np.float32)}}, 2),
        "pickle 0": pickle.dumps({"a": np.ones(50, np.float32)}, 0),
        "pickle 5": pickle.dumps({"a": np.ones(50, np.float32)}, 5),
    }


@pytest.mark.parametrize("kind", ["new", "old", "pickle 2", "pickle 0", "pickle 5"])
def test_cut_files_are_one_sentence_at_every_length(tmp_path, kind):
    data = files(tmp_path)[kind]
    path = tmp_path / "x"
    for size in {*range(0, min(len(data), 600), 7), *range(0, len(data), 61), len(data) - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"x: it ") as error:
            read_all(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["new", "old", "pickle 2", "pickle 0", "pickle 5"])
def test_flipped_bytes_never_escape_as_another_error(tmp_path, kind):
    data = bytearray(files(tmp_path)[kind])
    path = tmp_path / "x"
    generator = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        for at in generator.integers(0, len(data), 3):
            changed[at] = generator.integers(0, 256)
        path.write_bytes(changed)
        with contextlib.suppress(ValueError):
            read_all(path)


CONFUSED = {
    "empty": (b"", "is empty"),
    "text": (b"hello, I am no weights file\n", "no weights file"),
    "page": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "archive": (b"\x1f\x8b\x08" + b"\0" * 20, "unpack it"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 20, "HDF5"),
    "picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "picture"),
    "json": (b'{"a": 1}', "JSON"),
    "list": (pickle.dumps([1, 2, 3], 2), "no arrays by name"),
    "one array": (pickle.dumps(np.ones(3), 2), "no arrays by name"),
    "no arrays": (pickle.dumps({"a": 1}, 2), "no arrays by name"),
    "numbers": (b"\x00" * 100, "no weights file"),
    "huge header": ((2**62).to_bytes(8, "little") + b"{}", "no weights file"),
    "twice": (b"\x80\x02}(U\x01aK\x01U\x01aK\x02u.", "'a' twice"),
    "bytes and text": (pickle.dumps({b"a": 1.0, "a": np.ones(2)}, 3), "'a' twice"),
    "control characters": (pickle.dumps({"a\x1b[31m": np.ones(2)}, 2), "a name that cannot be one"),
    "long name": (pickle.dumps({"a" * 201: np.ones(2)}, 2), "a name that cannot be one"),
    "deep": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "no arrays|damaged"),
}


@pytest.mark.parametrize("case", CONFUSED)
def test_other_files_are_told_for_what_they_are(tmp_path, case):
    data, words = CONFUSED[case]
    with pytest.raises(ValueError, match=rf"x\.pkl: it .*({words})"):
        read_checkpoint(written(tmp_path, data))


def test_tensors_without_end_are_refused(tmp_path):
    one = np.ones(1, np.float32)
    path = written(tmp_path, pickle.dumps({str(i): one for i in range(20_001)}, 2))
    with pytest.raises(ValueError, match="20,001 tensors, more than any known network"):
        read_checkpoint(path)


def test_no_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no weights file at {path}"):
            read_checkpoint(path)


def test_bookkeeping_of_mmengine_is_dropped(tmp_path, monkeypatch):
    """An unpublished checkpoint, written by classes of mmengine's names."""

    class HistoryBuffer:
        def __init__(self):
            self._log_history = np.ones(3)

        def __getstate__(self):
            return dict(self.__dict__, statistics_methods={"min": HistoryBuffer.min})

        def min(self): ...

    path, module = tmp_path / "x.pth", types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    for thing in (HistoryBuffer, HistoryBuffer.min):
        thing.__module__ = module.__name__
        thing.__qualname__ = thing.__qualname__.rpartition("<locals>.")[2]
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        hub = {"log_scalars": {"loss": HistoryBuffer()}, "runtime_info": {"iter": 3}}
        torch.save({"state_dict": {"a": torch.ones(2)}, "message_hub": hub}, path)
    assert b"HistoryBuffer" in path.read_bytes()
    assert read_checkpoint(path).tensors["a"].read().tolist() == [1, 1]
