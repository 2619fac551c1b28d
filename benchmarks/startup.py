"""Processor time until a command answers: help, errors of use, one clip, the first batch.

python benchmarks/startup.py [--against OTHER/src]

Each command runs in a fresh process, and the processor time of that process and its children
counts, so that other work on the machine matters little. With --against, the same commands run with
another version of the library, in turn. The fastest of the rounds counts. The training command
decodes with two workers and ends after its first update, with its checkpoint and weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from measure import machine
from nonlocalnet.cli import COMMANDS
from nonlocalnet.data.synthetic import write_same_color

HERE = Path(__file__).parents[1] / "src"
TINY = ["--model", "c2d_tiny_nl2", "--clip", "4x2", "--crop", "32", "--short-side", "32", "32"]
RUN = [*TINY, "--iterations", "1", "--batch-size", "4", "--lr-steps", "1", "--device", "cpu"]


@dataclass
class Options:
    """Options of the benchmark."""

    against: Path | None = None
    """The folder src of another version, to compare with."""
    rounds: int = 2
    """The fastest counts."""
    only: str = ""
    """Measure commands whose name contains this; the others' results are kept."""
    out: Path = Path("benchmarks/results/startup_cpu.json")
    """results"""


def commands() -> dict[str, list[str]]:
    """Map what is measured to the words of the command; "{out}" is a new folder."""
    helps = {f"{name} --help": [name, "--help"] for name in COMMANDS}
    end = ["--weights", "first/model.safetensors", "--device", "cpu"]
    return {
        "--help": ["--help"],
        **helps,
        "a misspelled option": ["train", "--dta", "videos"],
        "a missing file": ["predict", "none.mp4", "--weights", "none.safetensors"],
        "a wrong value": ["train", "--data", "videos", "--out", "{out}", "--lr", "0"],
        "predict, one clip": ["predict", "videos/same/00001.mp4", *end, "--num-clips", "1"],
        "train, one update": ["train", "--data", "videos", "--out", "{out}", *RUN, "--workers=2"],
    }


def seconds(words: list[str], source: Path, cwd: Path, count: int, code: int = 0) -> float:
    """Run a command, which exits with `code`, in a fresh process; return its processor time."""
    out = str(cwd / f"out{count}")
    command = [sys.executable, "-m", "nonlocalnet", *(out if w == "{out}" else w for w in words)]
    environment = os.environ | {"PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": "1"}
    before = os.times()
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=False)
    after = os.times()
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()}")
    return (
        after.children_user
        + after.children_system
        - (before.children_user + before.children_system)
    )


def main(options: Options) -> None:
    """Measure all commands, print a table and write the results."""
    torch.set_num_threads(1)
    versions = {"now": HERE} | ({"before": options.against} if options.against else {})
    found: dict[str, dict[str, float]] = {}
    if options.only:
        found = json.loads(options.out.read_text())["seconds"]
    with tempfile.TemporaryDirectory() as folder:
        cwd, count = Path(folder), 0
        write_same_color(cwd / "videos", 8, seed=0)
        seconds(["train", "--data", "videos", "--out", "first", *RUN], HERE, cwd, 0)
        for name in (name for name in commands() if options.only in name):
            words = commands()[name]
            best = dict.fromkeys(versions, float("inf"))
            for _ in range(options.rounds):
                for version, source in versions.items():
                    count += 1
                    taken = seconds(words, source, cwd, count, 2 * name.startswith("a "))
                    best[version] = min(best[version], taken)
            found[name] = {version: round(value, 2) for version, value in best.items()}
            print(f"{name:<22}", *(f"{k} {v:5.2f} s" for k, v in found[name].items()))
    text = json.dumps({"machine": machine("cpu"), "seconds": found}, indent=1) + "\n"
    options.out.write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Options))
