"""Kill a training at random moments, again and again, and compare it with an undisturbed one.

    python benchmarks/faults.py --kills 20

Writes made-up videos and trains the same small network twice on them, with decoding processes,
augmentation, dropout, an average of the weights and validation. The first run is left alone; the
second one is killed (SIGKILL, the training process and nobody else) `kills` times after a random
part of a second to a few seconds, and started again with --resume each time. Both must end with the
same weights, optimizer and losses, bit for bit; the exit code says whether they do.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from safetensors.torch import load_file

from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.runtime.log import console
from nonlocalnet.training.checkpoints import Checkpoints

NUMBERS = ("iteration", "loss", "accuracy", "lr")


@dataclass(frozen=True)
class Options:
    kills: int = 20
    """How often."""
    iterations: int = 400
    """Updates of the whole run."""
    seed: int = 0
    """Of the moments."""


def main(options: Options) -> int:
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, count in (("train", 24), ("val", 8)):
            write_same_color(folder / part, count, seed=count)
        started = time.monotonic()
        finish(start(folder, "whole", options))
        whole = time.monotonic() - started
        reached = [disturb(folder, options, rng) for _ in range(options.kills)]
        finish(start(folder, "killed", options))
        console.print(
            f"undisturbed {whole:.0f} s; killed {options.kills} times, "
            f"the newest checkpoints then: {reached}"
        )
        problems = compare(folder / "whole", folder / "killed")
        for problem in problems:
            console.print(f"different: {problem}")
        if not problems:
            console.print("the same losses, weights, averages, optimizer and scores, bit for bit")
        return 1 if problems else 0


def start(folder: Path, name: str, options: Options) -> subprocess.Popen:
    """Begin a run, or go on with it."""
    words = f"""--data {folder / "train"} --val {folder / "val"} --out {folder / name} --resume
        --model c2d_tiny_nl2 --clip 4x2 --crop 32 --short-side 32 36 --batch-size 4 --lr 0.05
        --ema 0.9 --workers 1 --log-every 7 --eval-every 50 --checkpoint-every 10
        --iterations {options.iterations} --device cpu"""
    command = [sys.executable, "-m", "nonlocalnet", "train", *words.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen) -> None:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run ended with {process.returncode}: {said}")


def disturb(folder: Path, options: Options, rng: random.Random) -> int:
    """Start the run, kill it, and give its newest checkpoint's iteration."""
    process = start(folder, "killed", options)
    log = folder / "killed" / "metrics.jsonl"
    before = log.stat().st_mtime_ns if log.exists() else 0
    while process.poll() is None and not (log.exists() and log.stat().st_mtime_ns > before):
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 1.5))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    files = Checkpoints(folder / "killed" / "checkpoints", 3).files()
    return int(files[0].stem) if files else 0


def compare(one: Path, other: Path) -> list[str]:
    """Name what differs between two finished runs."""
    problems = []
    a, b = (Checkpoints(run / "checkpoints", 3).load() or {} for run in (one, other))
    for part in ("model", "ema"):
        problems += [
            f"{part} {key}" for key in a[part] if not torch.equal(a[part][key], b[part][key])
        ]
    for key, state in a["optimizer"]["state"].items():
        momentum = b["optimizer"]["state"][key]["momentum_buffer"]
        if not torch.equal(state["momentum_buffer"], momentum):
            problems.append(f"momentum {key}")
    for file in ("model.safetensors", "best.safetensors"):
        x, y = (load_file(run / file) for run in (one, other))
        problems += [f"{file} {key}" for key in x if not torch.equal(x[key], y[key])]
    if losses(one) != losses(other):
        problems.append("losses or scores")
    return problems


def losses(run: Path) -> list[list[float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [[line.get(key) for key in (*NUMBERS, "top1", "mean_class")] for line in lines]


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
