"""Open many small videos from shards and from loose files: time, and calls to the system.

    python benchmarks/packing.py [--videos 100000] [--folder PLACE] [--forget COMMAND]

The videos are one tiny file (8 frames of 32 x 32) under many names, 1,000 in a folder, and the same
files packed by `data pack`. "read" opens a video and reads its bytes, of all videos; "open" is
`open_reader`, which finds its frames, of some of them. The order is that of the list, or random.
The ways take turns at the same videos, and the best of the rounds counts. CPU time is that of this
process, so that other jobs weigh little; wall time depends on them.

With `--forget`, a command that empties the caches of the file system of `--folder`, such as
unmounting and mounting it again, "read" is also measured once after it. System calls are counted by
strace, if it is there. "ways" compares how FFmpeg may read a part of a tar file.
"""

from __future__ import annotations

import json
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import tyro
from rich.table import Table

from nonlocalnet.data.datasets import read_dataset, read_entries
from nonlocalnet.data.packs import index
from nonlocalnet.data.packs import video as packs
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.packs.write import pack_dataset
from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.data.video.reader import open_reader
from nonlocalnet.runtime.log import print_table, status

IN_FOLDER = 1000
NAMED = ("openat", "open", "newfstatat", "stat", "lstat", "statx", "access", "readlink")
Videos = list[Path | PackedVideo]


@dataclass
class Options:
    """Options of this script."""

    videos: int = 100_000
    """How many."""
    opened: int = 3000
    """Videos of "open", which takes longer."""
    rounds: int = 3
    """The best of so many counts."""
    shard_size: int = 10**8
    """Bytes of a tar file."""
    clip: Path | None = None
    """A video for "ways"; by default none is compared."""
    folder: Path | None = None
    """Where the videos are written, and left; by default a temporary folder."""
    forget: str = ""
    """A command that empties the caches of its file system."""
    count: str = ""
    """Open "loose" or "shards" videos for strace: the script itself uses this."""
    out: Path = Path(__file__).parent / "results/packing_cpu.json"


def read(video: Path | PackedVideo) -> None:
    with video.open() if isinstance(video, PackedVideo) else video.open("rb") as file:
        file.read()


def find_frames(video: Path | PackedVideo) -> None:
    with open_reader(video) as reader:
        assert reader.num_frames == 8


def make(folder: Path, options: Options) -> dict[str, float]:
    """Write the videos, and pack them."""
    loose, packed = folder / "loose", folder / "packed"
    seconds = {}
    if not loose.exists():
        with tempfile.TemporaryDirectory() as place:
            data = next(write_same_color(place, 2, seed=0).rglob("*.mp4")).read_bytes()
        for i in range(options.videos):
            file = loose / f"{i // IN_FOLDER:05d}" / f"{i:08d}.mp4"
            if i % IN_FOLDER == 0:
                file.parent.mkdir(parents=True)
            file.write_bytes(data)
    if not packed.exists():
        begun = time.process_time(), time.monotonic()
        pack_dataset(loose, read_entries(loose), packed, shard_size=options.shard_size)
        seconds = {"cpu": time.process_time() - begun[0], "wall": time.monotonic() - begun[1]}
    return seconds


def microseconds(call: Callable, videos: Videos) -> dict[str, float]:
    """Time a call, in microseconds for each video."""
    begun = time.process_time(), time.perf_counter()
    for video in videos:
        call(video)
    ended = time.process_time(), time.perf_counter()
    each = [round((b - a) / len(videos) * 1e6, 1) for a, b in zip(begun, ended, strict=True)]
    return {"cpu": each[0], "wall": each[1]}


def compare(call: Callable, sets: dict[str, Videos], rounds: int) -> dict[str, dict[str, float]]:
    """Time a call on loose files and on shards, in turn: the best of some rounds."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for way, videos in sets.items():
            found = microseconds(call, videos)
            best[way] = {k: min(v, best.get(way, found)[k]) for k, v in found.items()}
    return best


def count_calls(options: Options, folder: Path) -> dict[str, dict[str, float]]:
    """Count the system calls of one opening: those of 1,000 more, divided."""
    found = {}
    for way in ("loose", "shards"):
        counts = []
        for videos in (100, 1100):
            words = [sys.executable, __file__, "--folder", str(folder), "--count", way]
            words += ["--opened", str(videos), "--videos", str(options.videos)]
            with tempfile.NamedTemporaryFile("r") as file:
                trace = ["strace", "-f", "-c", "-U", "name,calls", "-o", file.name]
                subprocess.run([*trace, *words], check=True, capture_output=True)
                rows = re.findall(r"^(\w+) +(\d+)$", file.read(), re.MULTILINE)
            counts.append({name: int(calls) for name, calls in rows if name != "total"})
        less, more = counts
        each = {name: (calls - less.get(name, 0)) / 1000 for name, calls in more.items()}
        named = sum(calls for name, calls in each.items() if name in NAMED)
        found[way] = {"all": round(sum(each.values()), 2), "by name": round(named, 2)}
    return found


def compare_ways(clip: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Read and decode a clip by itself, as a window on a tar file, and by FFmpeg's subfile."""
    root = folder / "one"
    (root / "a").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(clip, root / "a" / clip.name)
    pack_dataset(root, read_entries(root), folder / "one_packed")
    packed = read_dataset(folder / "one_packed").train[0].path
    assert isinstance(packed, PackedVideo)
    shard, end = packed.shard.folder / packed.shard.name, packed.start + packed.length
    sources = {
        "file": lambda: str(clip),
        "window": packed.open,
        "subfile": lambda: f"subfile,,start,{packed.start},end,{end},,:{shard}",
    }
    works = {
        "packets": lambda file: sum(packet.size for packet in file.demux(video=0)),
        "decode": lambda file: sum(1 for _ in file.decode(video=0)),
    }
    found: dict[str, dict[str, float]] = {}
    for work, function in works.items():
        best = dict.fromkeys(sources, float("inf"))
        for _ in range(10):
            for name, source in sources.items():
                begun = time.process_time()
                with av.open(source(), "r") as file:
                    file.streams.video[0].codec_context.thread_count = 1
                    function(file)
                best[name] = min(best[name], 1000 * (time.process_time() - begun))
        found[work] = {name: round(ms, 2) for name, ms in best.items()}
    return found


def measure(options: Options, folder: Path) -> None:
    packing = make(folder, options)
    loose, packed = folder / "loose", folder / "packed"
    result: dict = {
        "machine": {"cpu": platform.processor() or platform.machine(), "pyav": av.__version__},
        "videos": options.videos,
        "bytes": next(loose.rglob("*.mp4")).stat().st_size,
        "shards": len(list(packed.glob("*.tar"))),
        "packing, seconds": packing,
        "unit": "microseconds a video",
        "rows": [],
    }
    reading = {}
    for name, path in (("loose", loose), ("shards", packed)):
        begun = time.process_time()
        data = read_dataset(path)
        reading[name] = round(time.process_time() - begun, 2)
        index._read_local.cache_clear()
        if name == "loose":
            files: Videos = [record.path for record in data.train]
        else:
            parts: Videos = [record.path for record in data.train]
    result["read_dataset, CPU seconds"] = reading
    for order in ("list", "random"):
        if order == "random":
            for videos in (files, parts):
                random.Random(0).shuffle(videos)
        sets = {"loose": files, "shards": parts}
        some = {way: videos[: options.opened] for way, videos in sets.items()}
        rows = [("read", "warm", read, sets), ("open", "warm", find_frames, some)]
        for what, cache, call, chosen in rows:
            row = {"what": what, "cache": cache, "order": order}
            result["rows"].append(row | compare(call, chosen, options.rounds))
        if options.forget:
            row = {"what": "read", "cache": "cold", "order": order}
            for way, videos in sets.items():
                packs._open_shard.cache_clear()
                subprocess.run(options.forget, shell=True, check=True)
                row[way] = microseconds(read, videos)
            result["rows"].append(row)
    if shutil.which("strace"):
        result["system calls of one read"] = count_calls(options, folder)
    if options.clip is not None:
        result["ways, CPU milliseconds"] = compare_ways(options.clip, folder)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def show(result: dict) -> None:
    table = Table("what", "cache", "order", "loose", "shards", title="microseconds of CPU (wall)")
    for row in result["rows"]:
        cells = (f"{row[way]['cpu']} ({row[way]['wall']})" for way in ("loose", "shards"))
        table.add_row(row["what"], row["cache"], row["order"], *cells)
    print_table(table)
    for name, value in result.items():
        if name != "rows":
            status.print(f"{name}: {value}", markup=False)


def main(options: Options) -> None:
    if options.count:
        assert options.folder is not None
        path = options.folder / ("packed" if options.count == "shards" else "loose")
        records = read_dataset(path).train
        random.Random(0).shuffle(records)
        for record in records[: options.opened]:
            read(record.path)
    elif options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        measure(options, options.folder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(options, Path(folder))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
