import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.cli import main
from nonlocalnet.data.synthetic import write_same_colour
from nonlocalnet.models.weights import WeightsInfo, save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(model, path, WeightsInfo(model.config, ["a", "b"], short_side=32))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_same_colour(folder, 2, seed=0)
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_serves_until_it_is_ended_and_leaves_nothing(weights, videos, tmp_path, number, code):
    words = [str(videos), "--weights", str(weights), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nonlocalnet", "explore", *words],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    try:
        line = process.stderr.readline()
        address = re.match(r"(http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends\)", line)[1]
        with urllib.request.urlopen(address + "api/contents") as answer:
            told = json.load(answer)
        assert told["networks"] == ["tiny"]
        assert len(told["videos"]) == 2
        assert list(tmp_path.glob("nonlocalnet-*"))
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("nonlocalnet-*"))


def test_a_port_that_is_taken(weights, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["explore", "--weights", str(weights), "--port", port]) == 2
    assert "choose another --port, 0 for any" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "--port must be from 0 to 65535"),
        (["--max-upload-mib", "nan"], "--max-upload-mib must be positive"),
        (["gone"], "no video or folder at gone"),
    ],
)
def test_errors_of_use(weights, capsys, words, said):
    assert main(["explore", *words, "--weights", str(weights)]) == 2
    assert said in capsys.readouterr().err


def test_a_network_without_blocks_is_refused(tmp_path, capsys):
    model = nl.create_model("c2d_tiny", num_classes=2, clip="8x1", crop=32)
    path = tmp_path / "local.safetensors"
    save_weights(model, path, WeightsInfo(model.config, ["a", "b"], short_side=32))
    assert main(["explore", "--weights", str(path)]) == 2
    assert "has no non-local block to look at" in capsys.readouterr().err


def test_look_draws_and_prints(weights, videos, tmp_path, capsys):
    video = next(videos.rglob("*.mp4"))
    words = ["look", str(video), "--weights", str(weights), "--at", "3,10,20", "--json"]
    out = [str(tmp_path / f"look.{ending}") for ending in ("html", "png", "mp4", "json")]
    assert main([*words, "--out", *out]) == 0
    numbers = json.loads(capsys.readouterr().out)
    # frame 3 belongs to positions centred on 3 or 5; pixel (10, 20) to (10.5, 18.5)
    assert numbers["point"]["query"] == [1, 2, 1]
    assert {path.name for path in tmp_path.iterdir()} == {
        "look.html",
        "look.png",
        "look.mp4",
        "look.json",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at", "1,2"], "--at is T,X,Y"),
        (["--at", "1,2,x"], "--at is T,X,Y"),
        (["--at", "9,2,2"], "at must be a"),
        (["--out", "a.gif"], "--out must end in"),
        (["--block", "res9"], "block must be one of"),
        (["--top", "0"], "--top must be at least 1"),
        (["--moment", "2"], "moment must be from 0"),
    ],
)
def test_errors_of_looking(weights, videos, capsys, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video = next(videos.rglob("*.mp4"))
    assert main(["look", str(video), "--weights", str(weights), *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
