"""The real application behind the real server, asked as a hostile client would."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import numpy as np
import pytest

from nonlocalnet.data.video.write import write_video
from nonlocalnet.explorer import connection, server, uploads
from nonlocalnet.explorer.connection import make_server
from nonlocalnet.explorer.server import make_app

LOOK = "/api/look?video=v0&network=tiny"
MOST = 0.25  # MiB


class Client:
    def __init__(self, port, store):
        self.port, self.store = port, store
        self.address = f"127.0.0.1:{port}"

    def ask(self, path, method="GET", body=None, headers=None, **options):
        """-> status, headers, body; whatever it is, it names no file of the server."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {}, **options)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        assert str(self.store).encode() not in data
        assert b"Traceback" not in data
        return answer.status, answer.headers, data

    def refused(self, *args, **kwargs):
        """-> status, sentence."""
        status, _, data = self.ask(*args, **kwargs)
        said = json.loads(data)
        assert list(said) == ["error"]
        assert "\n" not in said["error"]
        return status, said["error"]

    def send(self, data, name="a.mp4", **kwargs):
        status, _, data = self.ask(f"/api/videos?name={quote(name)}", "POST", data, **kwargs)
        return status, json.loads(data)

    def raw(self, data, wait=20.0, close=False):
        """Send bytes as they are; -> all that comes until the connection ends, or `wait`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            connection.sendall(data)
            if close:
                connection.shutdown(socket.SHUT_WR)
            parts = []
            try:
                while part := connection.recv(1 << 16):
                    parts.append(part)
            except (TimeoutError, ConnectionResetError):
                pass
        return b"".join(parts)

    def uploads(self):
        return sorted(self.store.iterdir())

    def becomes_empty_of(self, before):
        deadline = time.monotonic() + 10
        while self.uploads() != before:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture(scope="module")
def client(library):
    listener = socket.create_server(("127.0.0.1", 0))
    running = make_server(make_app(library, max_upload_mib=MOST))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    close, library.close = library.close, lambda: None  # it is shared
    thread.start()
    yield Client(listener.getsockname()[1], library.store)
    running.should_exit = True
    thread.join(10)
    library.close = close
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def serves(request, client):
    """After whatever was done to it, it goes on."""
    yield
    assert client.ask("/api/contents")[0] == 200
    assert json.loads(client.ask(LOOK)[2])["title"] == "squares.mp4"


def head(client, *lines, path="/api/videos?name=a"):
    text = [f"POST {path} HTTP/1.1", f"Host: {client.address}", *lines, "", ""]
    return "\r\n".join(text).encode()


def test_the_page_and_its_parts(client):
    status, headers, data = client.ask("/")
    assert status == 200
    nonce = re.search(r"'nonce-([^']+)'", headers["content-security-policy"])[1]
    scripts = re.findall(r"<script[^>]*>", data.decode())
    assert scripts
    assert all(f'nonce="{nonce}"' in script for script in scripts)
    for name in re.findall(r"/static/([\w.]+)", data.decode()):
        status, headers, _ = client.ask(f"/static/{name}")
        assert status == 200
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-type"].startswith(("text/javascript", "text/css"))
    about = json.loads(client.ask(LOOK)[2])
    block = about["blocks"][0]
    status, _, theta = client.ask(f"/api/parts/theta0?{LOOK.split('?')[1]}")
    count = np.prod([axis["count"] for axis in block["queries"]])
    assert status == 200
    assert len(theta) == 2 * count * block["depth"]
    contents = json.loads(client.ask("/api/contents")[2])
    assert contents["networks"] == ["tiny"]
    names = [video["name"] for video in contents["videos"]]
    assert names[:2] == ["squares.mp4", "b<b>.mp4"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/none", 404),
        ("/static/../server.py", 404),
        ("/static/..%2fserver.py", 404),
        ("/static/..%2f..%2f..%2f..%2fetc%2fpasswd", 404),
        ("/static/%2e%2e", 404),
        ("/static/page.html", 404),
        ("/static/look.css%00.js", 404),
        ("/static//etc/passwd", 404),
        ("/api/parts/..%2f..%2ftheta0?video=v0&network=tiny", 404),
        ("/api/parts/theta9?video=v0&network=tiny", 404),
        ("/api/parts/%2e%2e?video=v0&network=tiny", 404),
        ("/api/look", 404),
        ("/api/look?video=..%2f..&network=tiny", 404),
        ("/api/look?video=v0&network=..%2ftiny", 404),
        ("/api/look?video=v0%00&network=tiny", 404),
        (f"{LOOK}&moment=nan", 400),
        (f"{LOOK}&moment=inf", 400),
        (f"{LOOK}&moment=-1e-9", 400),
        (f"{LOOK}&moment=1e999", 400),
        (f"{LOOK}&moment={'9' * 9999}", 400),
        (f"{LOOK}&moment=", 400),
        (f"{LOOK}&moment=0x1", 400),
        ("/api/videos", 405),
    ],
)
def test_paths_and_values_that_are_not_there(client, path, status):
    found, reason = client.refused(path)
    assert found == status
    assert len(reason) < 120


def test_methods(client):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert client.refused("/api/look", method)[0] == 405
    assert client.ask("/", "HEAD")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "", "[", "localhost.", "0.0.0.0"]
)
def test_another_name_for_this_machine_is_refused(client, host):
    for path in ("/", LOOK, "/static/app.js"):
        status, reason = client.refused(path, headers={"Host": host})
        assert status == 421
        assert "name" in reason


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:9", "LOCALHOST"])
def test_its_own_names_are_taken(client, host):
    assert client.ask("/", headers={"Host": host})[0] == 200


def test_names_where_it_is_open_to_all(library):
    async def ask(app, name="my-machine"):
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b""}
        await app(scope | {"headers": [(b"host", f"{name}:80".encode())]}, receive, send)
        return sent[0]["status"]

    for host in ("0.0.0.0", "::"):
        app = make_app(library, host=host)
        for name in ("my-machine", "My.local", "192.0.2.7", "[2001:db8::1]", socket.getfqdn()):
            assert asyncio.run(ask(app, name)) == 200, name
        # a page of the web can let any name of its own lead here, and then reads the answers
        for name in ("evil.example", "my-machine.evil.example", "1.2.3.4.evil.example", ""):
            assert asyncio.run(ask(app, name)) == 421, name
    assert asyncio.run(ask(make_app(library, host="My-Machine"))) == 200
    assert asyncio.run(ask(make_app(library, host="192.0.2.7"))) == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://[", "http://127.0.0.1:1"]
)
def test_another_page_may_not_use_it(client, video, origin):
    before = client.uploads()
    foreign = {"Origin": origin}
    status, said = client.send(video.read_bytes(), headers=foreign)
    assert status == 403
    assert said == {"error": "other web pages may not use this"}
    assert client.uploads() == before
    for path in (LOOK, "/api/contents", f"/api/parts/theta0?{LOOK.split('?')[1]}"):
        assert client.refused(path, headers=foreign) == (403, said["error"])


@pytest.mark.parametrize(
    ("site", "status"),
    [("cross-site", 403), ("same-site", 403), ("", 403), ("same-origin", 200), ("none", 200)],
)
def test_what_the_browser_says_of_who_asks(client, site, status):
    # a picture or a link of another page has no Origin; another port of this machine is same-site
    for path in (LOOK, "/api/contents", "/static/app.js", "/none"):
        said = client.ask(path, headers={"Sec-Fetch-Site": site})
        assert said[0] == (404 if path == "/none" and status == 200 else status)
        assert said[1]["cross-origin-resource-policy"] == "same-origin"
    assert client.ask("/", headers={"Sec-Fetch-Site": site})[0] == 200  # a link to the page


def test_what_older_browsers_say_of_who_asks(client):
    for page, status in (("http://evil.example/x", 403), (f"http://{client.address}/", 200)):
        assert client.ask("/api/contents", headers={"Referer": page})[0] == status
        assert client.ask("/", headers={"Referer": page})[0] == 200


def test_an_upload_can_be_looked_at(client, video):
    name = "<script>\u202e../\x00\n" + "x" * 10_000
    own = {"Origin": f"http://{client.address}"}
    status, said = client.send(video.read_bytes(), "a/<b>.mp4", headers=own)
    assert status == 201
    assert said["name"] == "<b>.mp4"
    about = json.loads(client.ask(f"/api/look?video={said['key']}&network=tiny")[2])
    assert about["title"] == "<b>.mp4"
    assert client.send(video.read_bytes(), name)[1]["name"] == "x" * 120
    # a name is shown, never used
    assert all(re.fullmatch("[0-9a-f]{32}", path.name) for path in client.uploads())


def chunks(data, size=4096):
    for i in range(0, len(data), size):
        yield data[i : i + size]


def test_uploads_have_a_size_limit(client, video):
    before = client.uploads()
    large = bytes(int(MOST * 2**20) + 1)
    for body, options in (
        (large, {}),
        (chunks(large), {"encode_chunked": True, "headers": {"Transfer-Encoding": "chunked"}}),
    ):
        status, said = client.send(body, **options)
        assert status == 413
        assert said == {"error": "the video is larger than 0.25 MiB"}
    # the announced length alone is enough, and a false one does not help
    answer = client.raw(head(client, "Content-Length: 99999999999"), wait=1)
    assert b" 413 " in answer.splitlines()[0]
    client.raw(head(client, "Content-Length: 5", "Connection: close") + large, wait=5)
    client.becomes_empty_of(before)
    options = {"encode_chunked": True, "headers": {"Transfer-Encoding": "chunked"}}
    assert client.send(chunks(video.read_bytes()), **options)[0] == 201


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: -1",),
        ("Content-Length: " + "9" * 5000,),
        ("Content-Length: 1", "Content-Length: 2"),
        ("Transfer-Encoding: gzip, chunked",),
        ("No colon",),
        ("A: " + "x" * 1_000_000,),
    ],
)
def test_what_is_no_http(client, lines):
    answer = client.raw(head(client, *lines))
    assert b"error" in answer
    assert re.match(rb"HTTP/1.1 (400|501)", answer)
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]


@pytest.mark.parametrize("size", ["zz", "-5", "f" * 30])
def test_bad_chunks(client, size):
    before = client.uploads()
    client.raw(head(client, "Transfer-Encoding: chunked") + f"{size}\r\nabc".encode(), wait=1)
    client.becomes_empty_of(before)


def test_files_that_are_no_videos(client, video, tmp_path):
    before = client.uploads()
    good = video.read_bytes()
    write_video(tmp_path / "raw.avi", np.zeros((3, 48, 64, 3), np.uint8), codec="rawvideo")
    data = (tmp_path / "raw.avi").read_bytes()
    place = data.index(b"strf") + 12
    bomb = data[:place] + (30000).to_bytes(4, "little") * 2 + data[place + 8 :]
    bad = {
        "empty": b"",
        "text": b"no video\n" * 99,
        "html": b"<html><script>alert(1)</script>",
        "cut": good[: len(good) // 2],
        "random": np.random.default_rng(0).bytes(9000),
        "bomb": bomb,
        "list": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "gif bomb": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b"!\xf9\x04\0\0\0\0\0;",
    }
    for name, body in bad.items():
        status, said = client.send(body, name)
        assert status == (422 if body else 400), name
        assert list(said) == ["error"]
        assert client.uploads() == before, name


def test_endless_frames_end_at_a_limit(client, library, monkeypatch):
    """A tiny frame header, over and over: frames without end in few bytes."""
    monkeypatch.setattr(library._decode, "time_limit", 0.05)
    before = client.uploads()
    y4m = b"YUV4MPEG2 W2 H2 F25:1 C420jpeg\n" + b"FRAME\nabcdef" * 20_000
    status, said = client.send(y4m, "long.y4m")
    assert (status, said["error"]) == (422, "long.y4m: took longer than 0.05 s")
    assert client.uploads() == before


def test_slow_and_broken_senders(client, monkeypatch):
    monkeypatch.setattr(uploads, "GRACE", 0.3)
    before = client.uploads()
    stuck = head(client, "Content-Length: 1000") + b"abc"
    answer = client.raw(stuck, wait=1)
    assert b" 408 " in answer.splitlines()[0]
    assert b"too slow" in answer
    client.raw(stuck, wait=1, close=True)  # half-closed
    with socket.create_connection(("127.0.0.1", client.port)) as gone:
        gone.sendall(stuck)
    client.becomes_empty_of(before)


@pytest.mark.parametrize(("limit", "piece"), [("GRACE", b"x"), ("LONGEST", b"x" * 4000)])
def test_dripping_does_not_hold_a_place(client, monkeypatch, limit, piece):
    monkeypatch.setattr(uploads, limit, 0.5)  # 80 kB a second are enough, but not for ever
    with socket.create_connection(("127.0.0.1", client.port), timeout=0.05) as dripping:
        dripping.sendall(head(client, "Content-Length: 250000"))
        answer, end = b"", time.monotonic() + 5
        while not answer and time.monotonic() < end:
            dripping.sendall(piece)
            with contextlib.suppress(TimeoutError):
                answer = dripping.recv(1000)
        dripping.settimeout(5)
        while b"too slow" not in answer and (more := dripping.recv(1000)):  # the body comes apart
            answer += more
    assert b" 408 " in answer.splitlines()[0]
    assert b"too slow" in answer


def test_who_drips_makes_room_for_another(client, video, monkeypatch):
    monkeypatch.setattr(uploads, "PATIENCE", 0.3)
    before, data = client.uploads(), video.read_bytes()
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", client.port), timeout=10))
            for _ in range(uploads.SLOTS)
        ]
        for one in slow:
            one.sendall(head(client, "Content-Length: 1000") + b"abc")
        deadline = time.monotonic() + 5
        while len(client.uploads()) < len(before) + len(slow):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.35)
        assert client.send(data)[0] == 201
        assert b" 408 " in slow[0].recv(1000)  # the one that is behind most
        fresh = stack.enter_context(socket.create_connection(("127.0.0.1", client.port)))
        fresh.sendall(head(client, f"Content-Length: {len(data)}") + data[:-1])
        for _ in slow:  # who goes on is not the one that goes
            assert client.send(data)[0] == 201
        fresh.sendall(data[-1:])
        assert b" 201 " in fresh.recv(1000).splitlines()[0]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("POST /api/videos?name=a", 413),
        ("POST /none", 404),
        ("GET /", 200),
        ("PUT /api/look", 405),
        ("POST /api/videos?name=a HTTP/1.1\r\nOrigin: http://evil.example\r\nA: b", 403),
    ],
)
def test_a_body_without_end_is_not_read_on(client, monkeypatch, line, status):
    monkeypatch.setattr(connection, "LINGER", 0.3)
    monkeypatch.setattr(connection, "UNREAD", 1 << 17)
    line = line if "HTTP/1.1" in line else f"{line} HTTP/1.1"
    line = f"{line}\r\nHost: {client.address}\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer, closed, end = b"", False, time.monotonic() + 5
    with socket.create_connection(("127.0.0.1", client.port), timeout=0.01) as endless:
        endless.sendall(line.encode())
        while not closed and time.monotonic() < end:
            try:
                endless.sendall(b"2000\r\n" + bytes(1 << 13) + b"\r\n")
                answer += endless.recv(1 << 16)
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
    assert closed
    assert f" {status} ".encode() in answer.splitlines()[0]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(connection, "CONNECTIONS", 8)


def idle(client, kind):
    """Open a connection that asks for nothing more."""
    one = socket.create_connection(("127.0.0.1", client.port), timeout=5)
    if kind == "half a head":
        one.sendall(b"GET / HTTP/1.1\r\nHo")
    elif kind == "answered":
        one.sendall(f"GET /none HTTP/1.1\r\nHost: {client.address}\r\n\r\n".encode())
        assert b" 404 " in one.recv(1000)
    elif kind == "bodiless":
        one.sendall(head(client, "Content-Length: 99", path="/none"))
    elif kind == "half open":
        one.sendall(b"GET")
        one.shutdown(socket.SHUT_WR)
    return one


@pytest.mark.parametrize("kind", ["silent", "half a head", "answered", "bodiless", "half open"])
def test_idle_connections_keep_nobody_out(client, few, kind):
    held = [idle(client, kind) for _ in range(30)]
    for _ in range(10):
        assert client.ask("/")[0] == 200
        assert client.ask("/api/contents")[0] == 200
        held.append(idle(client, kind))
    for one in held:
        one.close()


def test_who_has_a_request_at_work_is_not_dropped(client, few, library, monkeypatch):
    computing, go_on = threading.Event(), threading.Event()
    before = library.look

    def slow(*args):
        computing.set()
        assert go_on.wait(20)
        return before(*args)

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(library, "look", slow)
        answer = pool.submit(client.ask, LOOK)
        assert computing.wait(5)
        held = [idle(client, "silent") for _ in range(30)]
        assert client.ask("/")[0] == 200
        go_on.set()
        assert answer.result()[0] == 200
    for one in held:
        one.close()


def reader(client, path, buffer=4096):
    """Ask, with as little room for the answer as there can be."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    one.settimeout(10)
    one.connect(("127.0.0.1", client.port))
    one.sendall(f"GET {path} HTTP/1.1\r\nHost: {client.address}\r\n\r\n".encode())
    return one


def test_an_answer_that_is_not_taken_is_given_up(client, monkeypatch):
    large = b"x" * (1 << 25)
    monkeypatch.setattr(server.html_page, "array", lambda *_: large)
    monkeypatch.setattr(connection, "STALL", 0.2)
    path = f"/api/parts/theta0?{LOOK.split('?')[1]}"
    with reader(client, path) as asleep, reader(client, path, 1 << 20) as awake:
        got = 0
        while part := awake.recv(1 << 20):
            got += len(part)
            if got > len(large):
                break
        assert got > len(large)  # who takes it gets it all
        time.sleep(0.8)
        got = 0
        with contextlib.suppress(ConnectionError):
            while part := asleep.recv(1 << 20):
                got += len(part)
        assert got < len(large)


def test_slow_readers_keep_nobody_out(client, few, monkeypatch):
    monkeypatch.setattr(server.html_page, "array", lambda *_: b"x" * (1 << 23))
    held = [reader(client, f"/api/parts/theta0?{LOOK.split('?')[1]}") for _ in range(20)]
    for _ in range(3):
        assert client.ask("/")[0] == 200
    for one in held:
        one.close()


def test_one_after_the_other_on_one_connection(client):
    line = f"GET /none HTTP/1.1\r\nHost: {client.address}\r\n\r\n".encode()
    last = line.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert client.raw(line * 200 + last).count(b" 404 ") == 201


def test_fifty_at_once(client, library, video):
    contents = client.ask("/api/contents")[2]
    with ThreadPoolExecutor(50) as pool:
        looks = list(pool.map(lambda i: client.ask(f"{LOOK}&moment={i % 5 / 4}")[0], range(50)))
    assert set(looks) == {200}
    with ThreadPoolExecutor(50) as pool:
        sent = list(pool.map(lambda i: client.send(video.read_bytes(), f"{i}"), range(50)))
    assert {status for status, _ in sent} == {201, 503}
    assert all(said.get("error", "again").endswith(("again", "moment")) for _, said in sent)
    assert client.ask("/api/contents")[2] != contents
    assert len(client.uploads()) == len(library.videos()) - 2 <= 20


def test_the_page_is_served_while_a_look_is_computed(client, library, monkeypatch):
    computing, go_on = threading.Event(), threading.Event()
    before = library.look

    def slow(*args):
        computing.set()
        assert go_on.wait(20)
        return before(*args)

    monkeypatch.setattr(library, "look", slow)
    with ThreadPoolExecutor(100) as pool:
        answers = [pool.submit(client.ask, LOOK) for _ in range(80)]
        assert computing.wait(5)
        for path in ("/", "/static/app.js", "/api/contents"):
            assert client.ask(path)[0] == 200
        go_on.set()
        statuses = [answer.result()[0] for answer in answers]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= server.WAITING


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyError("secret"), 500),
        (ValueError("/secret/path"), 500),
        (RuntimeError("secret"), 500),
        (OSError(24, "secret", "/secret/path"), 500),
        (MemoryError(), 507),
    ],
)
def test_what_no_one_foresaw(client, library, monkeypatch, capfd, error, status):
    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(library, "look", fail)
        found, reason = client.refused(LOOK)
    assert found == status
    assert "secret" not in reason
    if status == 500:
        assert "Traceback" in capfd.readouterr().err  # for whoever runs it


def test_a_full_disk(client, library, video, monkeypatch):
    def full(path, name):
        raise OSError(28, "No space left on device", str(path))

    before = client.uploads()
    with monkeypatch.context() as patch:
        patch.setattr(library, "add", full)
        status, said = client.send(video.read_bytes())
    assert status == 507
    assert said == {"error": "the video cannot be stored: No space left on device"}
    assert client.uploads() == before
