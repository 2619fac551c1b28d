import contextlib
import dataclasses
import errno
import http.server
import importlib.metadata
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest

from nonlocalnet.checkpoints import cache, zoo
from nonlocalnet.checkpoints.zoo import get
from nonlocalnet.evaluation.metrics import METRICS
from nonlocalnet.networks.arguments import DEFAULTS
from nonlocalnet.networks.registry import find_row, list_models

NAME = "i3d_nonlocal_8x8_IN_pretrain_400k"
FILE = f"{NAME}.pkl"
CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA256 = sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every path, and does wrong what it is told to."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.content, self.etag, self.kind = CONTENT, '"1"', "application/octet-stream"
        self.ranges, self.sized, self.chunked = True, True, False
        self.cut = None  # bytes after which the connection ends
        self.status = self.location = self.length = self.answered_range = None
        self.asked, self.sent = [], []  # the Range of each request, and the bytes sent for it
        self.barrier = None  # where a request waits for somebody

    def handle_error(self, *_):
        pass  # who asked has hung up


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers["Range"])
        if server.barrier is not None:
            with contextlib.suppress(threading.BrokenBarrierError):
                server.barrier.wait(5)
        if server.status is not None:
            self.send_response(server.status)
            if server.location is not None:
                self.send_header("Location", server.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, body = 0, server.content
        if self.headers["Range"] and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            said = server.answered_range or f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.send_header("Content-Range", said)
        else:
            self.send_response(200)
        body = body[start:]
        self.send_header("Content-Type", server.kind)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif server.sized:
            self.send_header("Content-Length", str(server.length or len(body)))
        self.end_headers()
        body = body[: server.cut]
        server.sent.append(len(body))
        with contextlib.suppress(OSError):  # who asked may have hung up
            if server.chunked:
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            self.wfile.write(body)
        self.close_connection = True


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        if server.barrier is not None:
            server.barrier.abort()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def state_sha256(monkeypatch):
    """Have the release state a hash."""

    def state(digits):
        changed = dataclasses.replace(zoo.find_release(NAME), sha256=digits)
        rows = [changed if row.name == NAME else row for row in zoo.RELEASES]
        monkeypatch.setattr(zoo, "RELEASES", rows)

    return state


def cut_download(server, folder, after=100_000):
    """Leave a part of the file."""
    server.cut = after
    with pytest.raises(
        OSError, match=f"ended after {after:,} of 300,000 bytes; run the same command"
    ):
        get(NAME, folder=folder, mirror=server.url)
    server.cut = None
    assert (folder / f"{FILE}.part").stat().st_size == after


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


# --- the table


def test_names_and_file_names_are_unique():
    releases = zoo.list_releases()
    assert len(releases) == 48
    for what in ("name", "file", "url"):
        assert len({getattr(row, what) for row in releases}) == len(releases)


@pytest.mark.parametrize("row", zoo.list_releases(), ids=lambda row: row.name)
def test_every_row_makes_sense(row):
    assert re.fullmatch(r"[A-Za-z0-9_]+", row.name)
    assert re.fullmatch(r"https://[a-z.]+/\S+\.(pkl|pth|pyth)", row.url)
    assert "\\" not in row.url
    assert row.file == row.url.split("/")[-1] or row.saved.startswith(row.name)
    assert row.model in list_models()
    assert row.license
    assert row.figure
    if row.scores:
        assert set(row.scores) <= set(METRICS)
        assert all(20 < score < 100 for score in row.scores.values())
        assert (row.top1, row.top5) == (None, None)
    elif row.top1 is None:  # their authors state nothing
        assert "kinetics" in row.name
    else:
        assert 20 < row.top1 < row.top5 < 100
    assert row.blocks == next((n for n in (3, 5) if f"_nl{n}" in row.model), 0)
    assert set(row.options) <= set(DEFAULTS)
    assert row.boxes == (row.dataset[:3] == "AVA")
    if row.dataset in ("ImageNet-1k", "COCO 2017"):
        assert row.clip is None
    else:
        assert re.fullmatch(r"\d+x\d+", row.clip)
        told = "MMAction2", "video-long-term-feature-banks"
        slowfast = find_row(row.model).fields.get("alpha")  # named for its slow pathway's clip
        assert row.clip in row.url or row.project in told or slowfast
    if row.sha256 is not None:
        assert re.fullmatch(r"[0-9a-f]{8}", row.sha256)
        assert row.file.rpartition("-")[2].startswith(f"{row.sha256}.")
    assert (row.sha256 is None) == (row.project not in ("MMAction2", "torchvision"))
    assert hash(row) == hash(dataclasses.replace(row))


def test_torchvision_rows_are_torchvisions():
    try:
        package = importlib.metadata.distribution("torchvision")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("torchvision is not installed")
    models = Path(package.locate_file("torchvision/models"))  # slow to import
    code = (models / "resnet.py").read_text()
    for depth in (50, 101):
        row = zoo.find_release(f"resnet{depth}_imagenet")
        enum = code[code.index(f"class ResNet{depth}_Weights") :]
        assert re.search(r'IMAGENET1K_V1 = Weights\(\s*url="(.*)"', enum)[1] == row.url
        assert float(re.search(r'"acc@1": (.*),', enum)[1]) == row.top1
        assert float(re.search(r'"acc@5": (.*),', enum)[1]) == row.top5
    for stem, kind, names in (
        ("mask", "MaskRCNN", {"box_map": "bbox_AP", "mask_map": "segm_AP"}),
        ("keypoint", "KeypointRCNN", {"box_map": "bbox_AP", "kp_map": "keypoints_AP"}),
    ):
        row = zoo.find_release(f"{stem}rcnn_resnet50_fpn_coco")
        code = (models / "detection" / f"{stem}_rcnn.py").read_text()
        enum = code[code.index(f"class {kind}_ResNet50_FPN_Weights") :]
        enum = enum[enum.index("COCO_V1 = Weights(") :]
        assert re.search(r'url="(.*)"', enum)[1] == row.url
        for theirs, ours in names.items():
            assert float(re.search(rf'"{theirs}": (.*),', enum)[1]) == row.scores[ours]


def test_the_official_ones_are_as_the_readme_has_them():
    rows = [row for row in zoo.list_releases() if row.project == "video-nonlocal-net"]
    assert len(rows) == 15
    best = zoo.find_release("i3d_nonlocal_128x1_I3D_pretrain_400k")
    assert (best.model, best.clip) == ("i3d_r50_nl5", "128x1")
    assert (best.top1, best.top5, best.license) == (76.5, 92.7, "CC-BY-NC 4.0")


def test_what_a_file_does_not_hold_is_in_the_options():
    options = {row.name: row.options for row in zoo.list_releases() if row.options}
    assert options["C2D_NOPOOL_8x8_R50"] == {"stem_padding": 1, "pool2_time": 1}
    assert options["I3D_NLN_8x8_R50"] == {"stem_padding": 1}
    assert options["i3d_r50_nl_dot_product_mmaction2"] == {"pairwise": "dot_product"}
    assert NAME not in options


def test_a_name_that_says_nothing_needs_its_folder():
    def names(path):
        return [release.name for release in zoo.releases_of(Path(path))]

    assert names("x/102760666/model_final.pkl") == ["lfb_ava_r50"]
    assert names("x/lfb_ava_r50.pkl") == ["lfb_ava_r50"]
    assert names("x/model_final.pkl") == []
    stem = "SLOWFAST_32x2_R101_50_50"
    both = [f"{stem}_ava", f"{stem}_kinetics600"]
    assert names(f"x/{stem}.pkl") == names(f"ava/{stem}.pkl") == both
    assert sorted(names(f"pretrain/{stem}.pkl")) == both


def test_finding():
    assert [row.name for row in zoo.list_releases("i3d_nonlocal_32*")] == [
        "i3d_nonlocal_32x2_IN_pretrain_400k",
        "i3d_nonlocal_32x4_I3D_pretrain_400k",
    ]
    assert zoo.list_releases("nothing*") == []
    assert zoo.find_release(NAME).name == NAME
    assert zoo.RELEASE_OF[FILE] is zoo.find_release(NAME)
    assert f"x{FILE}" not in zoo.RELEASE_OF
    with pytest.raises(ValueError, match=f"release must be one of 48 .*did you mean '{NAME}'"):
        get(NAME[:-1])


def test_the_cache_folder(monkeypatch):
    monkeypatch.setenv("NONLOCALNET_CACHE", "~/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    assert zoo.cache_folder() == Path("/home/me/own")
    monkeypatch.delenv("NONLOCALNET_CACHE")
    assert zoo.cache_folder() == Path("/xdg/nonlocalnet")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert zoo.cache_folder() == Path("/home/me/.cache/nonlocalnet")


def test_it_needs_the_standard_library_and_the_package():
    code = "import sys\nimport nonlocalnet.checkpoints.zoo; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded -= {name.split(".")[0] for name in bare.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"nonlocalnet"}


# --- downloads


def test_download_with_progress_and_then_no_more(server, tmp_path):
    seen = []
    path = get(
        NAME, folder=tmp_path / "new", mirror=server.url, on_progress=lambda *s: seen.append(s)
    )
    assert path == tmp_path / "new" / FILE
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == sorted([FILE, "hashes.json"])
    assert json.loads((path.parent / "hashes.json").read_text()) == {FILE: SHA256}
    assert {total for _, total in seen} == {300_000}
    done = [done for done, _ in seen]
    assert len(done) > 2
    assert done == sorted(set(done))
    assert done[-1] == 300_000
    assert get(NAME, folder=tmp_path / "new", mirror=server.url) == path
    assert len(server.asked) == 1


def test_its_place_is_the_cache_folder(server, tmp_path, monkeypatch):
    monkeypatch.setenv("NONLOCALNET_CACHE", str(tmp_path / "cache"))
    assert get(NAME, mirror=server.url) == tmp_path / "cache" / FILE


def test_a_release_is_taken_from_its_url(server, tmp_path, monkeypatch):
    row = dataclasses.replace(zoo.find_release(NAME), url=f"{server.url}/models/{FILE}")
    monkeypatch.setattr(zoo, "RELEASES", [row])
    assert get(NAME, folder=tmp_path).read_bytes() == CONTENT


def test_a_cut_download_goes_on_from_there(server, tmp_path):
    cut_download(server, tmp_path)
    seen = []
    path = get(NAME, folder=tmp_path, mirror=server.url, on_progress=lambda *s: seen.append(s))
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]
    assert server.sent == [100_000, 200_000]  # nothing twice
    assert seen[0][0] > 100_000
    assert seen[-1] == (300_000, 300_000)
    assert names(tmp_path) == sorted([FILE, "hashes.json"])


def test_a_server_that_ignores_ranges(server, tmp_path):
    cut_download(server, tmp_path)
    server.ranges = False
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]
    assert server.sent[-1] == 300_000


@pytest.mark.parametrize(
    "change",
    [
        {"content": OTHER, "etag": '"2"'},
        {"content": OTHER + b"more"},
        {"content": OTHER, "answered_range": "bytes 5-299999/300000"},
        {"content": OTHER, "answered_range": "nonsense"},
    ],
    ids=["etag", "size", "other bytes", "nonsense"],
)
def test_a_part_of_something_else_is_begun_anew(change, server, tmp_path):
    cut_download(server, tmp_path)
    vars(server).update(change)
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == server.content
    assert server.asked == [None, "bytes=100000-", None]


@pytest.mark.parametrize("note", [None, "{", "[]", '"size"', "{}"])
def test_a_part_of_unknown_origin_is_begun_anew(note, server, tmp_path):
    (tmp_path / f"{FILE}.part").write_bytes(OTHER[:100_000])
    if note is not None:
        (tmp_path / f"{FILE}.part.json").write_text(note)
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == CONTENT


def test_a_file_that_became_shorter_than_its_part(server, tmp_path):
    cut_download(server, tmp_path)
    server.content = OTHER[:50_000]
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == OTHER[:50_000]


def test_a_part_that_is_whole_is_not_asked_for(server, tmp_path):
    cut_download(server, tmp_path)
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT)
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_an_interrupted_download_goes_on(server, tmp_path):
    def interrupt(done, total):
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(NAME, folder=tmp_path, mirror=server.url, on_progress=interrupt)
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == CONTENT
    assert server.asked[1].startswith("bytes=")


@pytest.mark.parametrize("way", ["sized", "chunked"])
def test_without_a_size(way, server, tmp_path):
    server.sized, server.chunked = False, way == "chunked"
    seen = []
    path = get(NAME, folder=tmp_path, mirror=server.url, on_progress=lambda *s: seen.append(s))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (300_000, None)


# --- what is refused


def test_a_stated_hash_is_enforced(server, tmp_path, state_sha256):
    state_sha256(SHA256[:8])
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == CONTENT
    server.content = OTHER
    with pytest.raises(ValueError, match=f"not kept: .* not the {SHA256[:8]} that its release"):
        get(NAME, folder=tmp_path / "other", mirror=server.url)
    assert names(tmp_path / "other") == [f"{FILE}.part.json"]
    server.content = CONTENT  # and the next attempt begins anew
    assert get(NAME, folder=tmp_path / "other", mirror=server.url).read_bytes() == CONTENT


def test_a_file_put_there_by_hand_must_have_the_stated_hash(tmp_path, state_sha256):
    state_sha256(SHA256)
    (tmp_path / FILE).write_bytes(OTHER)
    with pytest.raises(ValueError, match="delete it to get it again"):
        get(NAME, folder=tmp_path)
    (tmp_path / FILE).write_bytes(CONTENT)
    assert get(NAME, folder=tmp_path) == tmp_path / FILE
    assert json.loads((tmp_path / "hashes.json").read_text()) == {FILE: SHA256}


def test_a_recorded_hash_is_enforced_on_another_download(server, tmp_path):
    get(NAME, folder=tmp_path, mirror=server.url).unlink()
    server.content = OTHER
    with pytest.raises(ValueError, match=f"{sha256(OTHER).hexdigest()}, not the {SHA256} that"):
        get(NAME, folder=tmp_path, mirror=server.url)
    assert FILE not in names(tmp_path)
    server.content = CONTENT
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == CONTENT


def test_a_changed_file_in_the_cache_is_refused_and_kept(server, tmp_path):
    path = get(NAME, folder=tmp_path, mirror=server.url)
    path.write_bytes(OTHER)
    said = f"has changed; delete it .* {sha256(OTHER).hexdigest()}, not the {SHA256} .*hashes.json"
    with pytest.raises(ValueError, match=said):
        get(NAME, folder=tmp_path)
    assert path.read_bytes() == OTHER
    (tmp_path / "hashes.json").unlink()  # as the message says
    assert get(NAME, folder=tmp_path) == path


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}'])
def test_damaged_records_are_named(text, server, tmp_path):
    (tmp_path / "hashes.json").write_text(text)
    with pytest.raises(ValueError, match=r"hashes\.json is damaged: delete it"):
        get(NAME, folder=tmp_path, mirror=server.url)
    (tmp_path / "hashes.json").unlink()
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == CONTENT
    assert len(server.asked) == 1  # what had come was kept


def test_other_records_stay(server, tmp_path):
    (tmp_path / "hashes.json").write_text('{"another": "1234"}')
    get(NAME, folder=tmp_path, mirror=server.url)
    recorded = json.loads((tmp_path / "hashes.json").read_text())
    assert recorded == {"another": "1234", FILE: SHA256}


@pytest.mark.parametrize("status", [404, 403, 500, 204, 206])
def test_what_the_server_refuses(status, server, tmp_path):
    server.status = status
    with pytest.raises(OSError, match=rf"{FILE}: the server answers {status}.*--mirror PLACE"):
        get(NAME, folder=tmp_path, mirror=server.url)
    assert names(tmp_path) == []


def test_a_refusal_keeps_the_part(server, tmp_path):
    cut_download(server, tmp_path)
    server.status = 503
    with pytest.raises(OSError, match="503"):
        get(NAME, folder=tmp_path, mirror=server.url)
    server.status = None
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == CONTENT
    assert server.sent == [100_000, 200_000]


def test_no_network(tmp_path):
    with Server() as server:
        url = server.url  # of a server that is gone
    with pytest.raises(
        OSError, match=r"cannot reach 127.0.0.1:\d+: Connection refused; .*--mirror"
    ):
        get(NAME, folder=tmp_path, mirror=url)


def test_a_silent_server(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "TIMEOUT", 0.1)
    server.barrier = threading.Barrier(2)  # it waits for another
    with pytest.raises(OSError, match=r"cannot reach .* timed out"):
        get(NAME, folder=tmp_path, mirror=server.url)


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/hostname", "data:,x"])
def test_redirects_to_the_web_alone(target, server, tmp_path):
    server.status, server.location = 302, target
    with pytest.raises(OSError, match=r"302|unknown url type"):
        get(NAME, folder=tmp_path, mirror=server.url)
    assert names(tmp_path) == []


def test_a_redirect_is_followed(server, tmp_path):
    with Server() as front:
        front.status, front.location = 302, f"{server.url}/there"
        threading.Thread(target=front.serve_forever, args=(0.01,)).start()
        cut_download(server, tmp_path)
        assert get(NAME, folder=tmp_path, mirror=front.url).read_bytes() == CONTENT
        front.shutdown()
    assert server.asked[-1] == "bytes=100000-"  # the range goes along


def test_a_web_page_is_not_kept(server, tmp_path):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(OSError, match="sends a web page"):
        get(NAME, folder=tmp_path, mirror=server.url)
    assert names(tmp_path) == []


def test_an_empty_file_is_not_one(server, tmp_path):
    server.content = b""
    with pytest.raises(OSError, match="ended after 0 of 1 bytes"):
        get(NAME, folder=tmp_path, mirror=server.url)


def test_more_than_was_said(server, tmp_path):
    server.length = 250_000  # what comes after it is not read
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == CONTENT[:250_000]
    resumed = tmp_path / "resumed"
    server.length = None
    cut_download(server, resumed)
    server.content, server.answered_range = CONTENT + b"more", "bytes 100000-299999/300000"
    with pytest.raises(ValueError, match="the server sent more than 300,000 bytes"):
        get(NAME, folder=resumed, mirror=server.url)
    assert f"{FILE}.part" not in names(resumed)


def test_too_long_a_file(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LIMIT", 200_000)
    with pytest.raises(ValueError, match="300,000 bytes are more than any release has"):
        get(NAME, folder=tmp_path, mirror=server.url)
    server.sized, seen = False, []
    with pytest.raises(ValueError, match="the server sent more than 200,000 bytes"):
        get(NAME, folder=tmp_path, mirror=server.url, on_progress=lambda done, _: seen.append(done))
    assert 100_000 < max(seen) <= 200_000  # it stops there
    assert FILE not in names(tmp_path)
    assert f"{FILE}.part" not in names(tmp_path)


class Pen:
    """A file whose writes fail once it has 100,000 bytes."""

    def __init__(self, file, number):
        self.file, self.number = file, number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        if self.file.tell() + len(data) > 100_000:
            raise OSError(self.number, os.strerror(self.number))
        return self.file.write(data)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space is left in .*; make room, and run the same command"),
        (errno.EIO, "cannot use .*: Input/output error"),
    ],
)
def test_a_full_or_broken_disk(number, said, server, tmp_path, monkeypatch):
    real = Path.open

    def fails(path, mode="r", *args, **kwargs):
        file = real(path, mode, *args, **kwargs)
        return Pen(file, number) if path.name.endswith(".part") else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fails)
        with pytest.raises(OSError, match=said):
            get(NAME, folder=tmp_path, mirror=server.url)
    kept = (tmp_path / f"{FILE}.part").stat().st_size
    assert kept > 0
    assert get(NAME, folder=tmp_path, mirror=server.url).read_bytes() == CONTENT
    assert server.asked[1] == f"bytes={kept}-"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written(number, server, tmp_path, monkeypatch):
    real = Path.open

    def refuse(path, mode="r", *args, **kwargs):  # root may write anywhere
        if mode != "r" and path.is_relative_to(tmp_path):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match=rf"cannot use {tmp_path}: .*; .* \$NONLOCALNET_CACHE"):
        get(NAME, folder=tmp_path, mirror=server.url)
    with real(tmp_path / FILE, "wb") as file:
        file.write(CONTENT)
    assert get(NAME, folder=tmp_path) == tmp_path / FILE  # reading is enough for what is there


def test_a_folder_that_is_a_file(server, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=f"cannot use {folder}: .*; choose another"):
            get(NAME, folder=folder, mirror=server.url)


def test_a_parent_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        PermissionError, match=rf"cannot use {tmp_path}/a/b: Permission denied; choose"
    ):
        get(NAME, folder=tmp_path / "a" / "b")


# --- mirrors


@pytest.mark.parametrize("kind", ["file", "folder", "renamed"])
def test_a_local_mirror(kind, tmp_path):
    stick = tmp_path / "stick"
    stick.mkdir()
    source = stick / (FILE if kind != "renamed" else "download(1).bin")
    source.write_bytes(CONTENT)
    seen = []
    path = get(
        NAME,
        folder=tmp_path / "cache",
        mirror=stick if kind == "folder" else str(source),
        on_progress=lambda *s: seen.append(s),
    )
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == sorted([FILE, "hashes.json"])
    assert seen == [(300_000, 300_000)]


def test_a_mirror_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "source").write_bytes(CONTENT)

    def refuse(source, _):
        raise PermissionError(errno.EACCES, "Permission denied", str(source))

    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(PermissionError) as refused:
        get(NAME, folder=tmp_path / "cache", mirror=tmp_path / "source")
    assert refused.value.filename == str(tmp_path / "source")  # not the cache's fault


def test_a_wrong_local_mirror_leaves_the_part(server, tmp_path, state_sha256):
    state_sha256(SHA256[:8])
    cut_download(server, tmp_path / "cache")
    (tmp_path / "wrong").write_bytes(OTHER)
    with pytest.raises(ValueError, match="wrong is another file, which is not kept"):
        get(NAME, folder=tmp_path / "cache", mirror=tmp_path / "wrong")
    assert (tmp_path / "wrong").read_bytes() == OTHER
    assert names(tmp_path / "cache") == [f"{FILE}.part", f"{FILE}.part.json"]
    assert get(NAME, folder=tmp_path / "cache", mirror=server.url).read_bytes() == CONTENT
    assert server.sent == [100_000, 200_000]


@pytest.mark.parametrize("end", ["", "/"])
def test_a_base_url_replaces_the_release_s(end, server, tmp_path, monkeypatch):
    paths = []
    monkeypatch.setattr(Handler, "log_request", lambda self, *_: paths.append(self.path))
    get(NAME, folder=tmp_path, mirror=f"{server.url}/some/models{end}")
    assert paths == [f"/some/models/{FILE}"]


@pytest.mark.parametrize("mirror", ["nowhere", "ftp://127.0.0.1/models", "file:///tmp", "."])
def test_a_mirror_that_is_none(mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"there is no file .* to take {NAME} from; .*--mirror"):
        get(NAME, folder=tmp_path / "cache", mirror=mirror)


def test_what_is_there_needs_no_mirror(server, tmp_path):
    path = get(NAME, folder=tmp_path, mirror=server.url)
    assert get(NAME, folder=tmp_path, mirror="nowhere") == path


# --- many at once


def test_two_at_once_make_one_download(server, tmp_path):
    results, start = [], threading.Barrier(4)

    def work():
        start.wait()
        results.append(get(NAME, folder=tmp_path, mirror=server.url).read_bytes())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [CONTENT] * 4
    assert server.asked == [None]
    assert names(tmp_path) == sorted([FILE, "hashes.json"])


@pytest.mark.parametrize("why", ["no module", "no locks"])
def test_where_the_system_has_no_locks(why, server, tmp_path, monkeypatch):
    if why == "no module":
        monkeypatch.setattr(cache, "fcntl", None)
    else:

        def flock(*_):
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    server.barrier = threading.Barrier(2)
    thread = threading.Thread(
        target=get, args=(NAME,), kwargs={"folder": tmp_path, "mirror": server.url}
    )
    thread.start()
    deadline = time.monotonic() + 5
    while not server.asked and time.monotonic() < deadline:
        time.sleep(0.001)
    with pytest.raises(OSError, match=r"another process writes to .* if no process is running"):
        get(NAME, folder=tmp_path, mirror=server.url)
    server.barrier.wait(5)
    thread.join(20)
    assert names(tmp_path) == sorted([FILE, "hashes.json"])
    assert get(NAME, folder=tmp_path).read_bytes() == CONTENT
    assert server.asked == [None]


def test_a_lock_goes_with_its_process(server, tmp_path):
    pytest.importorskip("fcntl")
    code = (
        "import fcntl, sys; file = open(sys.argv[1] + '/.lock', 'a')\n"
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as holder:
        holder.stdout.readline()
        thread = threading.Thread(
            target=get, args=(NAME,), kwargs={"folder": tmp_path, "mirror": server.url}
        )
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert server.asked == []
        holder.kill()
        thread.join(20)
    assert (tmp_path / FILE).read_bytes() == CONTENT
