"""What the explorer's server answers, to those who mean well and to those who do not."""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import av
import numpy as np
import pytest
from starlette.applications import Starlette

from nonlocalnet.explorer import library as library_module
from nonlocalnet.explorer import server as server_module
from nonlocalnet.explorer.server import is_loopback, make_app

pytestmark = pytest.mark.xdist_group("explorer")

LOOK = "/api/look?video=v0&network=net"


def upload(client, data, name="a.mp4", **options):
    return client.ask(f"/api/videos?name={quote(name)}", "POST", data, **options)


def test_the_page_and_its_parts(client):
    status, text, headers = client.ask("/")
    assert status == 200
    assert "nonce-" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    for name in ("explorer.js", "explorer.css", "look.css", "app.js", "attention.js"):
        assert f"/static/{name}" in text.decode() or name == "explorer.js"
        assert client.ask(f"/static/{name}")[0] == 200


def test_a_look_and_its_numbers(client, library):
    status, about, _ = client.ask(LOOK)
    assert status == 200
    assert about["picture"] == {"count": 4, "height": 32, "width": 48}
    assert [name for name, _ in about["prediction"]] in (["a", "b"], ["b", "a"])
    block = about["blocks"][0]
    found = library.look("v0", "net", 0.5)
    theta, _ = found.analysis.block(block["name"]).in_order()
    status, data, _ = client.ask(f"/api/parts/theta0?{LOOK.partition('?')[2]}")
    numbers = np.frombuffer(data, "<f2").astype(float) * block["theta"]["factor"]
    np.testing.assert_allclose(
        numbers, theta.flatten().numpy(), atol=2**-11 * float(theta.abs().max())
    )


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/look?video=v7&network=net", 404, "no longer here"),
        ("/api/look?video=v0&network=../net", 404, "this network is not here"),
        ("/api/look", 404, "no longer here"),
        (LOOK + "&moment=nan", 422, "moment must be from 0"),
        (LOOK + "&moment=1e999", 422, "moment must be from 0"),
        (LOOK + "&moment=-1", 422, "moment must be from 0"),
        (LOOK + "&moment=half", 400, "a number from 0 to 1"),
        ("/api/parts/..%2Ftheta0?video=v0&network=net", 404, "no such"),
        ("/api/parts/theta9?video=v0&network=net", 404, "no such part"),
        ("/static/..%2F..%2Flook.py", 404, "no such"),
        ("/static/../explorer/server.py", 404, "no such"),
        ("/static/%2Fetc%2Fpasswd", 404, "no such"),
        ("/etc/passwd", 404, "no such page"),
        ("/api/videos", 405, "cannot be done"),
    ],
)
def test_what_is_not_there_is_said(client, path, status, said):
    found, sentence = client.refused(path)
    assert found == status
    assert said in sentence


def test_an_uploaded_video_is_looked_at_under_its_name(client, video, library):
    status, told, _ = upload(client, video.read_bytes(), "my clip.mp4")
    assert status == 201
    assert told["name"] == "my clip.mp4"
    status, about, _ = client.ask(f"/api/look?video={told['key']}&network=net")
    assert status == 200
    assert about["title"] == "my clip.mp4"
    names = [one["name"] for one in client.ask("/api/contents")[1]["videos"]]
    assert names[0] == "real.mp4"
    assert "my clip.mp4" in names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("a\0b\nc.mp4", "abc.mp4"),
        ("‮4pm.exe", "4pm.exe"),
        ("x" * 10_000, "x" * 120),
        ("", "video"),
        ("<b>.mp4", "<b>.mp4"),
    ],
)
def test_names_name_no_files(client, video, library, name, shown):
    status, told, _ = upload(client, video.read_bytes(), name)
    assert status == 201
    assert told["name"] == shown
    assert all(len(path.name) == 32 for path in library.store.iterdir())


def make_wide(path, side):
    """A raw video whose header announces frames of that many pixels a side."""
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("rawvideo", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr24"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    place = data.index(b"strf") + 12
    data[place : place + 8] = side.to_bytes(4, "little") * 2
    return bytes(data)


def test_what_is_no_video_is_told_and_leaves_nothing(client, video, library, tmp_path):
    before = sorted(library.store.iterdir())
    for data, said in (
        (b"hello " * 100, "not a readable video"),
        (video.read_bytes()[:300], "x.mp4: "),
        (make_wide(tmp_path / "wide.avi", 30_000), "no frame size, or an impossible one"),
        (make_wide(tmp_path / "wide.avi", 10_000), "beyond the limit"),
        (b"#EXTM3U\n#EXTINF:9,\n/etc/passwd\n", "x.mp4: "),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "x.mp4: "),
    ):
        status, told, _ = upload(client, data, "x.mp4")
        assert status == 422
        assert said in told["error"]
        assert str(library.store) not in told["error"]
    status, told, _ = upload(client, b"")
    assert (status, told["error"]) == (400, "the file is empty")
    assert sorted(library.store.iterdir()) == before


def test_size_is_limited_whatever_the_header_says(client, library):
    before = sorted(library.store.iterdir())
    large = bytes(server_module.MIB // 2)
    assert upload(client, large)[0] == 413
    # in chunks, without a length
    status, told, _ = upload(client, iter([large[: 1 << 16]] * 8))
    assert status == 413
    assert told["error"] == "the video is larger than 0.25 MiB"
    assert sorted(library.store.iterdir()) == before


def test_other_pages_and_other_names_are_refused(client, video):
    data = video.read_bytes()
    status, told, _ = upload(client, data, headers={"Origin": "https://evil.example"})
    assert (status, told["error"]) == (403, "another web page may not send videos here")
    own = {"Origin": f"http://127.0.0.1:{client.port}"}
    assert upload(client, data, headers=own)[0] == 201
    assert client.ask("/", headers={"Host": "evil.example"})[0] == 400
    assert client.ask("/", headers={"Host": f"localhost:{client.port}"})[0] == 200


def test_fifty_at_once_are_all_answered(client, video):
    data = video.read_bytes()
    with ThreadPoolExecutor(50) as pool:
        looks = [pool.submit(client.ask, f"{LOOK}&moment={i % 3 / 2}") for i in range(50)]
        assert {future.result()[0] for future in looks} == {200}
        sent = [pool.submit(upload, client, data, f"{i}.mp4") for i in range(50)]
        assert {future.result()[0] for future in sent} <= {201, 503}
    assert client.ask("/api/contents")[0] == 200
    assert len(client.ask("/api/contents")[1]["videos"]) <= 1 + library_module.UPLOADS


def test_only_the_newest_uploads_are_kept(client, video, library):
    keys = [upload(client, video.read_bytes())[1]["key"] for _ in range(library_module.UPLOADS + 1)]
    assert client.refused(f"/api/look?video={keys[0]}&network=net")[0] == 404
    assert client.ask(f"/api/look?video={keys[-1]}&network=net")[0] == 200
    assert len(list(library.store.iterdir())) == library_module.UPLOADS


def test_one_who_goes_silent_is_not_waited_for_and_stops_nobody(client, library, monkeypatch):
    monkeypatch.setattr(server_module, "SILENCE", 0.5)
    before = sorted(library.store.iterdir())
    head = b"POST /api/videos?name=x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nabc"
    silent = socket.create_connection(("127.0.0.1", client.port))
    silent.sendall(head)
    half = socket.create_connection(("127.0.0.1", client.port))
    half.sendall(b"GET / HTT")
    gone = socket.create_connection(("127.0.0.1", client.port))
    gone.sendall(head)
    gone.close()
    assert client.ask("/")[0] == 200
    silent.settimeout(20)
    answer = silent.recv(4096)
    assert b"408" in answer
    assert b"nothing came for" in answer or b"nothing came for" in silent.recv(4096)
    silent.close()
    half.close()
    deadline = time.monotonic() + 10
    while sorted(library.store.iterdir()) != before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_page_comes_while_a_clip_is_looked_at(client, library, monkeypatch):
    started, go = threading.Event(), threading.Event()
    original = library_module.look_at_clip

    def slow(*args, **options):
        started.set()
        assert go.wait(30)
        return original(*args, **options)

    monkeypatch.setattr(library_module, "look_at_clip", slow)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.ask, LOOK + "&moment=0.123")
        assert started.wait(30)
        assert client.ask("/", timeout=5)[0] == 200
        go.set()
        assert asked.result()[0] == 200


def test_the_death_of_the_decoding_process_is_one_refusal(client, library):
    client.ask(LOOK + "&moment=0.3")
    os.kill(library._decode._worker.process.pid, 9)
    status, sentence = client.refused(LOOK + "&moment=0.31")
    assert status == 422
    assert "died (SIGKILL)" in sentence
    assert client.ask(LOOK + "&moment=0.31")[0] == 200


def test_what_nobody_foresaw_is_one_sentence(client, library, monkeypatch, capfd):
    def fail(*args, **options):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(library_module, "look_at_clip", fail)
    status, sentence = client.refused(LOOK + "&moment=0.77")
    assert status == 500
    assert "secret" not in sentence
    assert "RuntimeError: secret detail" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback(host, own, library):
    assert is_loopback(host) == own
    assert isinstance(make_app(library, host=host), Starlette)
