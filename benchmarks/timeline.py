"""Speed and memory of predictions over the time of a long video.

    python benchmarks/timeline.py [--data PATH_TO/data/clips] [--minutes 6 60]

A video of 340x256 at 25 fps is made in a temporary folder: two minutes of real clips (of --data,
else of a texture that moves), repeated without encoding them again. For each length, fresh
processes of one thread compute a timeline of a network with random weights, and decode all frames
alone. "x real time" is seconds of video per second of the process; memory is the peak of the
process above what it has after the network was built and saw one window.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import tyro
from rich.table import Table

import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.suffixes import is_video
from nonlocalnet.data.video.write import write_video
from nonlocalnet.evaluation.timeline import compute_timeline
from nonlocalnet.evaluation.timeline_files import PICTURES
from nonlocalnet.runtime.log import print_table, status

FPS, SECONDS = 25, 120  # of the part that is repeated
WIDTH, HEIGHT = 340, 256
MIB = 1 << 20


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    data: Path | None = None
    """A folder of videos to join."""
    minutes: tuple[int, ...] = (6, 60)
    """Lengths of the videos; multiples of 2."""
    model: str = "i3d_small"
    """The network."""
    clip: str = "16x2"
    """Its clip."""
    side: int = 64
    """Short side of the frames."""
    crop: int = 56
    """Side of the crop."""
    every: float = 1.0
    """Seconds between two moments."""
    window: float | None = None
    """Seconds of a window; default: the clip's."""
    out: Path = Path(__file__).parent / "results/timeline_cpu.json"


def real_frames(folder: Path) -> Iterator[np.ndarray]:
    """Decode the videos of a folder again and again."""
    for path in cycle(sorted(path for path in folder.iterdir() if is_video(path.name))):
        with av.open(str(path), metadata_errors="ignore") as file:
            for frame in file.decode(video=0):
                yield frame.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray()


def texture() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (40, 120, 3), dtype=np.uint8), np.ones((8, 8, 1), "u1"))
    for t in cycle(range(600)):
        noise = rng.integers(0, 12, (HEIGHT, WIDTH, 1), dtype=np.uint8)
        yield picture[20 : 20 + HEIGHT, t : t + WIDTH] // 2 + 60 + noise


def join(part: Path, times: int, out: Path) -> None:
    """Repeat a video without encoding it again."""
    with av.open(str(out), "w") as joined:
        stream, shift = None, 0
        for _ in range(times):
            with av.open(str(part)) as file:
                source = file.streams.video[0]
                stream = stream or joined.add_stream_from_template(source)
                length = int(SECONDS / source.time_base)
                for packet in file.demux(source):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        joined.mux(packet)
                shift += length


def peak() -> float:
    """Return the peak of this process's memory, MiB; `getrusage` would count its parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def decode(path: Path) -> dict[str, float]:
    """Decode all frames, without converting them."""
    begin = time.process_time()
    with av.open(str(path)) as file:
        file.streams.video[0].codec_context.thread_count = 1
        frames = sum(1 for _ in file.decode(video=0))
    return {"decoding_seconds": time.process_time() - begin, "frames": frames}


def predict(path: Path, warm: Path, options: Options) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nl.create_model(options.model, num_classes=400, clip=options.clip, crop=options.crop)
    model.info = WeightsInfo(model.config, [f"class {k}" for k in range(400)])
    given: dict[str, Any] = {"side": options.side, "crop": options.crop, "window": options.window}
    compute_timeline(model, warm, pictures=1, **given)
    before, begin = peak(), time.process_time()
    found = compute_timeline(model, path, every=options.every, pictures=PICTURES, **given)
    seconds = time.process_time() - begin
    return {
        "seconds": seconds,
        "duration": found.duration,
        "windows": len(found.probabilities),
        "memory_mib": peak() - before,
        "network_mib": before,
    }


def alone(function: Any, *values: Any) -> Any:
    """Call a function in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *values).result()


def main(options: Options) -> None:
    span = ClipSpec.parse(options.clip).span
    result: dict[str, Any] = {
        "machine": {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__},
        "options": {
            name: getattr(options, name)
            for name in ("model", "clip", "side", "crop", "every", "window")
        },
        "videos": "real clips" if options.data else "a texture",
        "rows": [],
    }
    table = Table("minutes", "windows", "x real time", "decoding alone", "memory above, MiB")
    with tempfile.TemporaryDirectory() as folder:
        part, warm = Path(folder, "part.mp4"), Path(folder, "warm.mp4")
        frames = texture() if options.data is None else real_frames(options.data)
        first = np.stack([*islice(frames, SECONDS * FPS)])
        write_video(part, first, fps=FPS)
        write_video(warm, first[: 2 * (span or 64)], fps=FPS)
        del first
        for minutes in options.minutes:
            path = Path(folder, "long.mp4")
            join(part, minutes * 60 // SECONDS, path)
            status.print(f"{minutes} minutes, {path.stat().st_size / MIB:.0f} MiB")
            row = {"minutes": minutes, **alone(decode, path), **alone(predict, path, warm, options)}
            row["times_real_time"] = row["duration"] / row["seconds"]
            row["times_real_time_decoding"] = row["duration"] / row["decoding_seconds"]
            result["rows"].append(row)
            options.out.write_text(json.dumps(result, indent=1) + "\n")
            table.add_row(
                str(minutes),
                str(row["windows"]),
                f"{row['times_real_time']:.1f}",
                f"{row['times_real_time_decoding']:.1f}",
                f"{row['memory_mib']:.0f}",
            )
    print_table(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
