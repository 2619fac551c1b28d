"""Watch streams for minutes: latency, dropped frames, and memory at the start, middle and end.

    python benchmarks/watch.py [--data PATH_TO/data/clips] [--minutes 10]

A video of 340x256 at 25 fps (real clips of --data, else a texture that moves; two minutes, again
and again with continued time stamps) is sent in real time by a process of its own to `nonlocalnet
watch` in another process of one thread, with networks of random weights:

- "rolling": a clip of `i3d_small` every second, by UDP;
- "frames": every frame by a C2D network with frame-causal blocks, by HTTP. The server breaks the
  connection in the middle, and is back after 3 seconds;
- "slow clips", "slow frames": networks that are slower than the stream, for a tenth of the time.

Latency is from the arrival of a frame's packet to the result, as the command's JSON lines have it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import tyro

from measure import MIB, machine
from timeline import FPS, SECONDS, real_frames, texture

CAUSAL = {"extent": "causal", "pairwise": "dot_product"}
CASES: dict[str, dict[str, Any]] = {
    "rolling": {"model": "i3d_small", "clip": "16x2", "crop": 56, "side": 64, "scheme": "udp"},
    "frames": {
        **{"model": "c2d_small_nl2", "clip": "8x8", "crop": 56, "side": 64, "scheme": "http"},
        **{"options": CAUSAL, "breaks": True},
    },
    "slow clips": {
        **{"model": "i3d_r50_nl5", "clip": "8x8", "crop": 224, "side": 256, "scheme": "udp"},
        "share": 0.1,
    },
    "slow frames": {
        **{"model": "c2d_r50_nl5", "clip": "8x8", "crop": 224, "side": 256, "scheme": "udp"},
        **{"options": CAUSAL, "share": 0.1},
    },
}

COUNTS = ("dropped_frames", "dropped_clips", "damaged_frames", "losses")


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    data: Path | None = None
    """A folder of videos to join."""
    minutes: float = 10
    """How long to watch each stream."""
    cases: tuple[str, ...] = tuple(CASES)
    """Which to measure; others stay in the results as they are."""
    out: Path = Path(__file__).parent / "results/watch_cpu.json"


def write_part(path: Path, data: Path | None) -> None:
    """Write the part that is repeated, with a key frame each second."""
    frames = texture() if data is None else real_frames(data)
    with av.open(str(path), "w", format="mpegts") as file:
        options = {"g": str(FPS), "preset": "veryfast", "tune": "zerolatency"}
        stream: Any = file.add_stream("libx264", rate=FPS, options=options)
        for image in islice(frames, SECONDS * FPS):
            if not stream.codec_context.is_open:
                stream.height, stream.width = image.shape[:2]
            image = np.ascontiguousarray(image)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))


class Wire:
    """A file to which a transport stream is written: it goes to a client by HTTP, or by UDP."""

    def __init__(self, scheme: str, port: int, server: socket.socket | None) -> None:
        if server is None:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.connect(("127.0.0.1", port))
            self.largest = 7 * 188
            return
        self.socket, _ = server.accept()
        self.socket.recv(4096)
        self.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
        self.largest = 2**20

    def write(self, data: bytes) -> int:
        """Send bytes; nobody needs to listen."""
        for start in range(0, len(data), self.largest):
            with contextlib.suppress(ConnectionRefusedError):
                self.socket.sendall(data[start : start + self.largest])
        return len(data)


def send(part: Path, scheme: str, port: int, seconds: float, pause: float) -> None:
    """Send a part again and again in real time; with a pause, break the connection midway."""
    server = socket.create_server(("127.0.0.1", port)) if scheme == "http" else None
    for length in [seconds / 2, seconds + 120] if pause else [seconds + 120]:
        wire = Wire(scheme, port, server)
        begin, target = time.monotonic(), None
        out: Any = av.open(wire, "w", format="mpegts", options={"flush_packets": "1"})
        for packet, due in packets(part):
            if due > length:
                break
            target = target or out.add_stream_from_template(packet.stream)
            time.sleep(max(0.0, begin + due - time.monotonic()))
            packet.stream = target
            try:
                out.mux(packet)
            except OSError:  # the client has left
                return
        wire.socket.close()
        time.sleep(pause)


def packets(part: Path) -> Iterator[tuple[av.Packet, float]]:
    """Read the packets of a part again and again, with the seconds at which each is due."""
    for k in itertools.count():
        with av.open(str(part)) as file:
            source = file.streams.video[0]
            assert source.time_base is not None, "a transport stream has one"
            shift = k * int(SECONDS / source.time_base)
            for packet in file.demux(source):
                if packet.pts is not None and packet.dts is not None:
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    yield packet, float(packet.dts * source.time_base)


def write_weights(path: Path, case: dict[str, Any]) -> None:
    """Write a network with random weights."""
    import torch

    import nonlocalnet as nl
    from nonlocalnet.checkpoints.metadata import WeightsInfo
    from nonlocalnet.checkpoints.save import save_weights

    torch.manual_seed(0)
    given = {"clip": case["clip"], "crop": case["crop"], **case.get("options", {})}
    network = nl.create_model(case["model"], num_classes=400, **given)
    info = WeightsInfo(network.config, [f"class {k}" for k in range(400)], short_side=case["side"])
    save_weights(network, path, info)


def memory(pid: int) -> float:
    """Return the resident memory of a process, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / MIB


def listening(port: int) -> bool:
    """Tell whether a server waits for a client."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    return any(words[1].endswith(f":{port:04X}") and words[3] == "0A" for words in lines)


def measure(case: dict[str, Any], part: Path, folder: Path, minutes: float) -> dict[str, Any]:
    """Watch one stream."""
    seconds = 60 * minutes * case.get("share", 1)
    weights, results = folder / "w.safetensors", folder / "results.jsonl"
    write_weights(weights, case)
    results.unlink(missing_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"{case['scheme']}://127.0.0.1:{port}"
    words = ["watch", address, "--weights", str(weights), "--json", str(results)]
    words += ["--side", str(case["side"]), "--crop", str(case["crop"]), "--device", "cpu"]
    words += ["--duration", str(seconds), "--idle", "60"]
    pause = 3.0 if case.get("breaks") else 0.0
    server = multiprocessing.get_context("fork").Process(
        target=send, args=(part, case["scheme"], port, seconds, pause), daemon=True
    )
    server.start()
    while case["scheme"] == "http" and not listening(port):
        time.sleep(0.1)
    watcher = subprocess.Popen(
        [sys.executable, "-m", "nonlocalnet", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    samples: list[tuple[float, float]] = []
    try:
        while watcher.poll() is None:
            if results.exists() and results.stat().st_size:
                samples.append((time.monotonic(), memory(watcher.pid)))
            time.sleep(1)
    except (FileNotFoundError, IndexError):
        pass  # it has just ended
    _, said = watcher.communicate()
    server.kill()
    if watcher.returncode:
        raise RuntimeError(said)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    late = np.array([row["latency"] for row in rows])
    begin, end = samples[0][0], samples[-1][0]
    rss = [value for _, value in samples]
    middle = min(samples, key=lambda sample: abs(sample[0] - (begin + end) / 2))[1]
    minutes = {int((when - begin) / 60): round(value) for when, value in samples}
    last = rows[-1]
    return {
        "model": case["model"],
        "clip": case["clip"],
        "address": case["scheme"],
        "seconds": last["time"] - rows[0]["time"],
        "results": len(rows),
        "latency_ms": {
            name: 1000 * float(np.percentile(late, share))
            for name, share in (("median", 50), ("p95", 95), ("p99", 99), ("longest", 100))
        },
        "frames": round(FPS * last["time"]),
        **{
            key: last[key]
            for key in ("dropped_frames", "dropped_clips", "damaged_frames", "losses")
        },
        "memory_mib": {"start": rss[0], "middle": middle, "end": rss[-1], "largest": max(rss)},
        "memory_mib_by_minute": list(minutes.values()),
        "said": said.replace(f":{port}", "").splitlines(),
    }


def main(options: Options) -> None:
    """Watch all streams, one after the other."""
    found: dict[str, Any] = {"machine": machine("cpu"), "rows": {}}
    if options.out.exists():
        found["rows"] = json.loads(options.out.read_text())["rows"]
    found["videos"] = "real clips" if options.data else "a texture"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        part = folder / "part.ts"
        write_part(part, options.data)
        for case in options.cases:
            found["rows"][case] = row = measure(CASES[case], part, folder, options.minutes)
            options.out.write_text(json.dumps(found, indent=1) + "\n")
            print(case, json.dumps(row, indent=1), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
