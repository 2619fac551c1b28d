"""`nonlocalnet watch`: what it prints and writes of streams, and how it ends."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import nonlocalnet as nl
from live_servers import parts, plain, serve, transport_stream
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import main
from nonlocalnet.data.video import live
from nonlocalnet.data.video.reader import decode_all

CLASSES = ["ape", "bee", "cat"]
COUNT = 50


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """v.ts, two seconds; networks rolling.safetensors and causal.safetensors."""
    folder = tmp_path_factory.mktemp("watch")
    small = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 5, 3), dtype=np.uint8)
    (folder / "v.ts").write_bytes(transport_stream(small.repeat(8, 1).repeat(8, 2)))
    for name, options in (("rolling", {}), ("causal", {"extent": "causal"})):
        torch.manual_seed(0)
        model = nl.create_model("c2d_tiny_nl2", num_classes=3, clip="4x2", crop=32, **options)
        model.fc.weight.data.normal_()
        info = WeightsInfo(model.config, CLASSES, short_side=32)
        save_weights(model, folder / f"{name}.safetensors", info)
    return folder


def words(work, source, *more, network="rolling"):
    given = ["--weights", work / f"{network}.safetensors", "--device", "cpu", "--idle", "0.3"]
    return ["watch", *map(str, [source, *given, *more])]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_clips_of_a_growing_file(work, tmp_path, capsys):
    """The classes are those of the clip in the file that ends with the frame of that time."""
    path, out = tmp_path / "v.ts", tmp_path / "p.jsonl"
    data = (work / "v.ts").read_bytes()
    path.write_bytes(data[:8000])

    def grow():
        with path.open("ab") as file:
            for part in parts(data[8000:]):
                file.write(part)
                file.flush()
                time.sleep(0.01)

    writer = threading.Thread(target=grow)
    writer.start()
    assert main(words(work, path, "--every", "0.4", "--json", out, "--top", "3")) == 0
    writer.join()
    found = rows(out)
    assert len(found) + found[-1]["dropped_clips"] == 5
    frames = decode_all(work / "v.ts")[:, :, :, 4:36].transpose(0, 1)
    model = nl.load(work / "rolling.safetensors").eval()
    for row in found:
        last = round(25 * row["time"])
        assert last % 10 == 7
        x = frames[:, last - 6 : last + 1 : 2]
        with torch.no_grad():
            p = model.probabilities((x[None].float() / 255 - 0.45) / 0.225)[0]
        assert [row["classes"][name] for name in CLASSES] == pytest.approx(p.tolist(), abs=1e-5)
        assert 0 < row["latency"] < 5
        assert abs(row["wall"] - time.time()) < 60
        assert (row["dropped_frames"], row["damaged_frames"], row["losses"]) == (0, 0, 0)
    said = capsys.readouterr()
    assert "a result every 0.4 s, from 4 frames of the last 8 frames" in said.err
    assert f"{len(found)} results, latency" in said.err
    first, best = said.out.splitlines()[0], next(iter(found[0]["classes"]))
    assert f"{found[0]['time']:.1f} s  {best} {found[0]['classes'][best]:.2f}, " in first
    assert "latency" in first


def test_every_frame_of_a_server_that_comes_back(work, monkeypatch, capsys):
    monkeypatch.setattr(live, "FIRST_PAUSE", 0.02)
    data = (work / "v.ts").read_bytes()
    with serve(data, data, greet=plain, pace=0.02) as port:
        address = f"tcp://me:secret@127.0.0.1:{port}"
        given = ("--json", "-", "--retries", "1")
        assert main(words(work, address, *given, network="causal")) == 2
    said = capsys.readouterr()
    found = list(map(json.loads, said.out.splitlines()))
    assert len(found) + found[-1]["dropped_frames"] == 2 * COUNT
    assert {row["losses"] for row in found} >= {0, 1}
    times = [row["time"] for row in found]
    assert times == sorted(times)
    assert "a result for every frame, from the last 8 frames" in said.err
    assert "connected again" in said.err
    assert "lost, and not found again (attempts: 1)" in said.err
    assert "secret" not in said.out + said.err


def test_a_slow_network_drops_clips(work, tmp_path, monkeypatch, capsys):
    from nonlocalnet.evaluation import watching

    compute = watching.Forward.__call__

    def slowly(self, views):
        time.sleep(0.3)
        return compute(self, views)

    monkeypatch.setattr(watching.Forward, "__call__", slowly)
    data = (work / "v.ts").read_bytes()
    out = tmp_path / "p.jsonl"
    with serve(data, greet=plain, pace=0.015) as port:
        address = f"tcp://127.0.0.1:{port}"
        main(words(work, address, "--retries", "0", "--every", "0.1", "--json", out))
    found = rows(out)
    assert found[-1]["dropped_clips"] > 3
    ends = {7 + math.ceil(round(2.5 * k, 6)) for k in range(17)}  # 0.1 s apart, or the next frame
    assert {round(25 * row["time"]) for row in found} <= ends
    assert found[-1]["dropped_clips"] + len(found) == len(ends)
    assert round(25 * found[-1]["time"]) == max(ends)
    assert "clips dropped" in capsys.readouterr().err


def test_duration_and_what_is_appended(work, tmp_path):
    out = tmp_path / "p.jsonl"
    out.write_text('{"before": 1}\n')
    data = (work / "v.ts").read_bytes()
    with serve(data * 50, greet=plain, pace=0.01) as port:
        began = time.monotonic()
        address = f"tcp://127.0.0.1:{port}"
        given = ("--duration", "1", "--json", out, "--idle", "5")
        assert main(words(work, address, *given, network="causal")) == 0
        assert time.monotonic() - began < 4
    first, *found = rows(out)
    assert first == {"before": 1}
    assert found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_good_order(work, tmp_path, number, capfd):
    data = (work / "v.ts").read_bytes()
    out = tmp_path / "p.jsonl"
    with serve(data * 50, greet=plain, pace=0.01) as port:
        child = os.fork()
        if not child:
            torch.set_num_threads(1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = main(words(work, f"tcp://127.0.0.1:{port}", "--json", out, "--idle", "60"))
            sys.stderr.flush()
            os._exit(code)
        deadline = time.monotonic() + 60
        while not (out.exists() and out.read_text().count("\n") > 1):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(child, number)
        began = time.monotonic()
        _, status = os.waitpid(child, 0)
        assert time.monotonic() - began < 5
    assert os.waitstatus_to_exitcode(status) == 130
    rows(out)  # whole lines
    said = capfd.readouterr().err
    assert "results, latency" in said
    assert "interrupted" in said


@pytest.mark.slow
def test_a_process_ends_at_once_while_nothing_arrives(work):
    """FFmpeg waits for data, and Python for none of its threads."""
    command = words(work, "udp://127.0.0.1:39418", "--idle", "100")
    process = subprocess.Popen(
        [sys.executable, "-m", "nonlocalnet", *command],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert "a result every" in process.stderr.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in said


def test_a_picture_on_a_terminal(work, monkeypatch, capsys):
    from rich.console import Console

    from nonlocalnet.runtime import log

    console = log._SafeConsole(force_terminal=True, width=80, highlight=False, markup=False)
    assert isinstance(console, Console)
    monkeypatch.setattr(log, "console", console)
    monkeypatch.setattr(type(console), "is_terminal", True)
    assert main(words(work, work / "v.ts", network="causal")) == 0
    said = capsys.readouterr()
    assert "probability" in said.out
    assert all(name in said.out for name in CLASSES)
    assert "did not grow while it was watched" in said.out
    assert "results, latency" in said.out


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("tcp://me:secret@127.0.0.1:9", "tcp://***@127.0.0.1:9: cannot be opened"),
        ("no.ts", "no.ts: no such file"),
    ],
)
def test_sources_that_are_not_there(work, source, said, capsys):
    assert main(words(work, source)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "secret" not in err
