"""`nonlocalnet explore` as a process: what it says, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import main
from nonlocalnet.data.synthetic import generate_same_color
from nonlocalnet.data.video.write import write_video

# the command itself, where one look lasts longer than any test
COMMAND = """
import sys, time
from nonlocalnet.explorer.library import Library
look = Library.look
def slow(library, video, network, moment):
    if moment < 1:
        return look(library, video, network, moment)
    print("computing", file=sys.stderr)
    time.sleep(99)
Library.look = slow
from nonlocalnet.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32)
    save_weights(model, folder / "tiny.safetensors", WeightsInfo(model.config, short_side=32))
    plain = nl.create_model("c2d_tiny", num_classes=2, clip="8x1", crop=32)
    save_weights(plain, folder / "plain.safetensors", WeightsInfo(plain.config, short_side=32))
    (folder / "videos").mkdir()
    write_video(folder / "videos" / "a.mp4", generate_same_color(0)[0])
    (folder / "empty").mkdir()
    return folder


def session(leader):
    """The processes of a session that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(own) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


class Running:
    """The command as a process of its own group, with a temporary folder of its own."""

    def __init__(self, work, folder, *words):
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        given = ["explore", work / "videos", "--weights", work / "tiny.safetensors"]
        given += ["--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *map(str, given), *words],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)},
        )
        self.said = ""
        while not (found := re.search(r"http://(\S+):(\d+)/", self.said)):
            line = self.process.stderr.readline()
            assert line, self.said
            self.said += line
        self.port = int(found[2])

    def ask(self, path, method="GET", body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def left(self):
        """What is left of it: files in its temporary folder, and processes of its session."""
        files = [path.name for path in self.temporary.iterdir()]
        return files + [str(pid) for pid in session(self.process.pid)]

    def end(self, number):
        """-> exit code, seconds, what was said since; Ctrl-C goes to the whole group."""
        begin = time.monotonic()
        (os.killpg if number == signal.SIGINT else os.kill)(self.process.pid, number)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, time.monotonic() - begin, said

    def hold(self):
        """Open a connection that says nothing, an upload that is stuck, a look that lasts."""
        requests = [
            "",
            "POST /api/videos?name=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\nabc",
            "GET /api/look?video=v0&network=tiny&moment=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ]
        sockets = [socket.create_connection(("127.0.0.1", self.port)) for _ in requests]
        for one, text in zip(sockets, requests, strict=True):
            one.sendall(text.encode())
        line = self.process.stderr.readline()
        assert line == "computing\n", line + os.read(self.process.stderr.fileno(), 4000).decode()
        return sockets


@pytest.fixture
def start(work, tmp_path):
    running = []

    def start(*words):
        running.append(Running(work, tmp_path, *words))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def test_it_answers_until_ctrl_c(start, work):
    running = start()
    assert running.said.endswith("(Ctrl-C ends)\n")
    assert running.said.count("\n") == 1
    assert running.ask("/api/contents")[1]["videos"] == [{"key": "v0", "name": "a.mp4"}]
    data = (work / "videos" / "a.mp4").read_bytes()
    status, video = running.ask("/api/videos?name=b.mp4", "POST", data)
    assert status == 201
    assert running.ask(f"/api/look?video={video['key']}&network=tiny")[0] == 200
    store = next(running.temporary.glob("nonlocalnet-*"))
    assert [path.name for path in store.iterdir()] == [video["key"]]
    assert store.stat().st_mode & 0o077 == 0
    held = running.hold()
    code, seconds, said = running.end(signal.SIGINT)
    assert (code, said) == (0, "")
    assert seconds < 5
    assert running.left() == []
    assert [one.close() for one in held]


def test_open_to_all_it_says_so_and_sigterm_ends_it(start):
    running = start("--host", "0.0.0.0")
    assert "can see these videos" in running.said
    assert "no password and no encryption" in running.said
    held = running.hold()
    code, seconds, said = running.end(signal.SIGTERM)
    assert (code, said) == (128 + signal.SIGTERM, "")
    assert seconds < 5
    assert running.left() == []
    assert [one.close() for one in held]


def test_it_ends_with_its_terminal_while_its_processes_still_start(start):
    running = start()
    code, seconds, said = running.end(signal.SIGHUP)
    assert (code, said) == (128 + signal.SIGHUP, "")
    assert seconds < 5
    assert running.left() == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--port", "70000"], "--port must be at least 0 and at most 65535; got 70000"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:8734"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid:8734"),
        (["--max-upload-mib", "0"], "--max-upload-mib must be above 0 and finite; got 0"),
        (["--max-upload-mib", "nan"], "--max-upload-mib must be above 0 and finite; got nan"),
        (["--max-upload-mib", "inf"], "--max-upload-mib must be above 0 and finite; got inf"),
    ],
)
def test_bad_options(work, capsys, words, reason):
    given = ["explore", "--weights", work / "tiny.safetensors", "--device", "cpu", *words]
    assert main([str(word) for word in given]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"nonlocalnet: {reason}")
    assert said.count("\n") == 1


def test_a_busy_port_is_one_sentence(work, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["explore", "--weights", str(work / "tiny.safetensors"), "--port", str(port)]
        assert main([*words, "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in said
    assert said.count("\n") == 1


def test_bad_sources_and_weights(work, capsys):
    tiny = work / "tiny.safetensors"
    for source, weights, reason in (
        (work / "none", tiny, "no file or folder at"),
        (work / "empty", tiny, "has no videos"),
        (work / "videos", work / "none.safetensors", "none.safetensors"),
        (work / "videos", work / "plain.safetensors", "has no non-local block to look at"),
    ):
        assert main(["explore", str(source), "--weights", str(weights), "--port", "0"]) == 2
        said = capsys.readouterr().err
        assert reason in said
        assert said.count("\n") == 1
