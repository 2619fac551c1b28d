"""Packed data at an address, served by servers that fail in every way that servers do."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from nonlocalnet.addresses import INDEX
from nonlocalnet.cli import main
from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.check import check_file
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import read_dataset, read_entries
from nonlocalnet.data.packs import index, remote, video
from nonlocalnet.data.packs.write import pack_dataset
from nonlocalnet.data.paths import expand_paths
from nonlocalnet.data.seeding import Draw
from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.data.transforms import TrainTransform
from nonlocalnet.data.video.reader import VideoError, decode_all

pytest.importorskip("aiohttp")
SHARD = "train-000000.tar"


class Server(ThreadingHTTPServer):
    """A folder over HTTP, with ranges. `faults` are those of the next requests for a file."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, folder))
        self.faults: dict[str, list[str]] = {}
        self.always: dict[str, str] = {}
        self.requests: Counter[str] = Counter()
        self.ranges: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/pack"

    def next_fault(self, name: str) -> str:
        waiting = self.faults.get(name)
        return waiting.pop(0) if waiting else self.always.get(name, "")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def __init__(self, folder: Path, *rest) -> None:
        self.folder = folder
        super().__init__(*rest)

    def log_message(self, *words) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.requests[name] += 1
        fault = self.server.next_fault(name)
        file = self.folder / name
        if fault.isdecimal() or self.path != f"/pack/{name}" or not file.is_file():
            self.send_error(int(fault) if fault else 404)
            return
        if fault == "break":
            self.close_connection = True
            return
        data, code, wanted = file.read_bytes(), 200, self.headers["Range"]
        self.server.ranges.append(wanted)
        if wanted is not None and fault != "whole":
            first, last = (int(word) for word in wanted.removeprefix("bytes=").split("-"))
            data, code = data[first : last + 1], 206
        if fault == "few":  # and says so
            data = data[: len(data) // 2]
        if fault == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "cut":  # fewer than it says
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("remote")
    write_same_color(root / "loose", 6, seed=0)
    pack_dataset(root / "loose", read_entries(root / "loose"), root / "packed")
    return root / "packed"


@pytest.fixture
def server(packed, monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    monkeypatch.setattr(video, "BLOCK", 4000)  # a video takes two requests
    for cached in (index._read_remote, video._download):
        cached.cache_clear()
    with Server(packed) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def clips(where: str | Path, workers: int = 0) -> list[torch.Tensor]:
    """Training clips, drawn with the same seeds."""
    records = read_dataset(where).train
    data = VideoDataset(records, 2, ClipSpec(4, 2), TrainTransform(32, (32, 36), 0.5), train=True)
    draws = [Draw(i, seed=i) for i in range(len(data))]
    loader = DataLoader(data, batch_size=2, sampler=draws, num_workers=workers)
    return [clip for clip, _, _ in loader]


def test_an_address_gives_what_the_folder_gives(packed, server):
    for workers in (0, 2):
        here, there = (clips(where, workers) for where in (packed, server.address))
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert server.requests[INDEX] == 1  # the second read knows it
    # nothing but the bytes of the videos was asked for, each once by each of the two passes
    assert server.requests[SHARD] == 2 * 6 * 2
    assert None not in server.ranges[1:]
    assert read_dataset(f"{server.address}/{INDEX}") == read_dataset(server.address)


@pytest.mark.parametrize("fault", ["break", "cut", "few", "wrong", "500", "503", "429"])
def test_a_fault_that_passes_changes_nothing(packed, server, fault):
    server.faults = {SHARD: [fault, "", fault, fault]}
    server.faults[INDEX] = [] if fault in ("few", "wrong") else [fault]
    here, there = (read_dataset(where).train for where in (packed, server.address))
    for one, other in zip(here[:2], there[:2], strict=True):
        assert torch.equal(decode_all(one.path), decode_all(other.path))
    assert not server.faults[SHARD]


@pytest.mark.parametrize(
    ("fault", "tries", "said"),
    [
        ("break", remote.TRIES, "could not be read in 5 tries, the last time: Server disconnected"),
        ("cut", remote.TRIES, "could not be read in 5 tries"),
        ("few", remote.TRIES, "2,000 of 4,000 bytes came"),
        ("503", remote.TRIES, "503.*Service Unavailable"),
        ("403", 1, "its server answers 403"),
        ("404", 1, "there is no file http://.*/train-000000.tar"),
        ("whole", 1, "its server ignores ranges of bytes"),
    ],
)
def test_a_fault_that_stays_ends_the_work(server, fault, tries, said):
    server.always[SHARD] = fault
    with pytest.raises((RuntimeError, FileNotFoundError), match=said) as error:
        clips(server.address)
    assert not isinstance(error.value, VideoError)  # which training would replace by another video
    assert "\n" not in str(error.value)
    # aiohttp itself asks once more after a broken connection that it had used before
    assert tries <= server.requests[SHARD] <= 2 * tries


def test_other_bytes_than_were_packed_are_refused(server):
    server.always[SHARD] = "wrong"
    path = read_dataset(server.address).train[0].path
    with pytest.raises(VideoError, match="gave other bytes than were packed, 5 times"):
        decode_all(path)
    assert "gave other bytes" in check_file(path).error


def test_wrong_addresses_are_told_in_a_sentence(server, capsys):
    for data, said in (
        (f"{server.address}/none", "there is no packed data at http://127.0.0.1"),
        ("http://127.0.0.1:1/pack", "could not be read in 5 tries"),
        ("s4://bucket/pack", "s4://bucket/pack/pack.jsonl cannot be opened: Protocol not known"),
    ):
        assert main(["data", "check", data]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    with pytest.raises(ValueError, match=r"no packed data at http.*, and no video of that name"):
        expand_paths([Path(f"{server.address}/none.mp4")])


def test_videos_at_an_address_have_names(packed, server):
    videos, _ = expand_paths([Path(server.address)])
    assert str(videos[0]) == f"{server.address}/different/00000.mp4"
    assert len(videos) == 6
    ((one,), _) = expand_paths([Path(f"{server.address}/same/00001.mp4")])
    assert one in videos
    assert torch.equal(decode_all(str(one)), decode_all(packed / "same/00001.mp4"))


def test_any_file_system_of_fsspec_will_do(packed, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for file in packed.iterdir():
        memory.pipe(f"/bucket/{file.name}", file.read_bytes())
    here, there = (clips(where) for where in (packed, "memory://bucket"))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    memory.pipe(f"/bucket/{SHARD}", b"short")
    monkeypatch.setattr(remote, "PAUSE", 0)
    video._download.cache_clear()
    with pytest.raises(RuntimeError, match=r"could not be read in 5 tries, .* bytes came"):
        decode_all(read_dataset("memory://bucket").train[0].path)
