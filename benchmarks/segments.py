"""Are the segments of an hour of real clips, whose moments are known, right?

    python benchmarks/segments.py --data PATH_TO/data/clips

Of each real clip, the first 60% of the frames are for training and the last 35% for the hour: two
minutes of these parts in random order, each shown 2 to 4 times in a row, repeated thirty times. A
small network learns the classes from a random start with `nonlocalnet train`. Then the timeline of
the hour is compared with the truth: the share of the moments whose most probable class is the true
one; for how many true segments there is a segment of the same class with an intersection over
union of at least one half; and the other way round.

The hour shows the people and places of the training videos some seconds later: this measures
whether moments are found and joined correctly, and not how well a network knows new videos.
"""

from __future__ import annotations

import csv
import json
import platform
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from av import VideoFrame
from av import open as open_file

import nonlocalnet as nl
from nonlocalnet.cli import main as command
from nonlocalnet.data.video.write import write_video
from nonlocalnet.evaluation.timeline import Segment, compute_timeline
from timeline import FPS, SECONDS, join

WIDTH, HEIGHT = 128, 96
SHARE, GAP = 0.60, 0.05  # of the frames: for training, and between training and the hour
IOU = 0.5


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    data: Path
    """The folder of clips, with labels.csv."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of the training, and of the order in the hour."""
    iterations: int = 200
    """Updates of 16 clips."""
    every: float = 1.0
    """Seconds between two moments."""
    out: Path = Path(__file__).parent / "results/segments_cpu.json"


def read_frames(path: Path) -> np.ndarray:
    with open_file(str(path), metadata_errors="ignore") as file:
        frames: list[VideoFrame] = list(file.decode(video=0))
        return np.stack([f.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray() for f in frames])


def prepare(data: Path, out: Path) -> dict[str, list[np.ndarray]]:
    """Write the training parts as OUT/CLASS/FILE, and return the others by class."""
    kept: dict[str, list[np.ndarray]] = {}
    with (data / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        frames, label = read_frames(data / row["file"]), row["label"].replace(" ", "_")
        end, start = round(SHARE * len(frames)), round((SHARE + GAP) * len(frames))
        folder = out / label
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{Path(row['file']).stem}.mp4", frames[:end], fps=FPS)
        kept.setdefault(label, []).append(frames[start:])
    return kept


def write_part(kept: dict[str, list[np.ndarray]], path: Path, seed: int) -> list[tuple[str, float]]:
    """Write the part that is repeated; return each label with the second at which it ends."""
    draw = random.Random(seed)
    frames: list[np.ndarray] = []
    ends: list[tuple[str, int]] = []
    total = 0
    while total < SECONDS * FPS:
        label = draw.choice([name for name in kept if not ends or name != ends[-1][0]])
        shown = np.concatenate([draw.choice(kept[label])] * draw.randint(2, 4))
        shown = shown[: SECONDS * FPS - total]
        frames.append(shown)
        total += len(shown)
        ends.append((label, total))
    write_video(path, np.concatenate(frames), fps=FPS)
    return [(label, end / FPS) for label, end in ends]


def repeat(ends: Sequence[tuple[str, float]], times: int) -> list[tuple[str, float, float]]:
    """(label, start, end) of the whole video; equal neighbors are one."""
    found: list[tuple[str, float, float]] = []
    for k in range(times):
        start = float(SECONDS * k)
        for label, end in ends:
            if found and found[-1][0] == label:
                found[-1] = (label, found[-1][1], SECONDS * k + end)
            else:
                found.append((label, start, SECONDS * k + end))
            start = SECONDS * k + end
    return found


def overlap(a: tuple[str, float, float], b: tuple[str, float, float]) -> float:
    """Intersection over union; 0 for different labels."""
    both = min(a[2], b[2]) - max(a[1], b[1])
    return max(both, 0.0) / (max(a[2], b[2]) - min(a[1], b[1])) if a[0] == b[0] else 0.0


def compare(
    truth: list[tuple[str, float, float]], segments: Sequence[Segment], classes: Sequence[str]
) -> dict[str, Any]:
    found = [(classes[s.label], s.start, s.end) for s in segments]

    def matched(some: list, others: list) -> float:
        return sum(max((overlap(a, b) for b in others), default=0) >= IOU for a in some) / len(some)

    nearest = [
        min((abs(b[1] - a[1]) for b in found if overlap(a, b) >= IOU), default=None) for a in truth
    ]
    begins = [x for x in nearest if x is not None]
    return {
        "true_segments": len(truth),
        "segments": len(found),
        "true_segments_found": matched(truth, found),
        "segments_that_are_true": matched(found, truth) if found else 0.0,
        "median_error_of_a_beginning": float(np.median(begins)) if begins else None,
    }


def run(options: Options, seed: int, minutes: int = 60) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = prepare(options.data, folder / "videos")
        trained = time.process_time()
        words = ["train", "--data", folder / "videos", "--val", folder / "videos", "--out"]
        words += [folder / "run", "--model", "i3d_small", "--clip", "8x4", "--crop", "56"]
        words += ["--short-side", "64", "72", "--iterations", options.iterations]
        words += ["--batch-size", "16", "--lr", "0.05", "--max-grad-norm", "1", "--seed", seed]
        words += ["--eval-every", options.iterations, "--workers", "0", "--device", "cpu"]
        if code := command([str(word) for word in words]):
            raise SystemExit(code)
        trained = time.process_time() - trained
        ends = write_part(kept, folder / "part.mp4", seed)
        truth = repeat(ends, minutes * 60 // SECONDS)
        join(folder / "part.mp4", minutes * 60 // SECONDS, folder / "hour.mp4")
        model = nl.load(folder / "run" / "model.safetensors")
        seconds = time.process_time()
        found = compute_timeline(model, folder / "hour.mp4", every=options.every)
        seconds = time.process_time() - seconds
        best = [found.classes[k] for k in found.probabilities.argmax(1)]
        right = [
            next(label for label, start, end in truth if start <= t < end) == name
            for t, name in zip(found.times, best, strict=True)
            if t < truth[-1][2]
        ]
        return {
            "seed": seed,
            "duration": found.duration,
            "classes": len(found.classes),
            "moments": len(right),
            "right_moments": sum(right) / len(right),
            **compare(truth, found.segments, found.classes),
            "training_seconds": trained,
            "times_real_time": found.duration / seconds,
        }


def main(options: Options) -> None:
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "machine": {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__},
        "network": "i3d_small, clip 8x4, crop 56",
        "iterations": options.iterations,
        "runs": [],
    }
    for seed in options.seeds:
        result["runs"].append(run(options, seed))
        print(json.dumps(result["runs"][-1]))
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
