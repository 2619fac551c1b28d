"""Train the demo's networks with many seeds, as they are and with disturbed rounding.

    python benchmarks/demo_seeds.py --out benchmarks/results/demo_seeds_cpu.json

Which seeds of examples/demo.py learn the task may depend on how a processor rounds. Each
disturbance changes rounding only: what is computed stays the same. Runs that are in the file
already are not repeated, so the script continues where it was stopped.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from measure import machine
from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.runtime.atomic import write_atomically
from nonlocalnet.runtime.log import console
from nonlocalnet.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from demo import (
    BATCH_SIZE,
    CLIP,
    ITERATIONS,
    TEST_VIDEOS,
    TRAIN_VIDEOS,
    test_accuracy,
    train_config,
    write_videos,
)

NOISE = 1e-7  # relative, of the initial weights: about one unit in the last place
DISTURBANCES = {
    "none": "as the demo runs",
    "noise": "initial weights times 1 + 1e-7 N(0, 1)",
    "chunked": "non-local blocks computed in chunks",
    "no_mkldnn": "convolutions without oneDNN",
    "two_threads": "sums divided among two threads",
}


@dataclass(frozen=True)
class Options:
    """What is measured."""

    out: Path
    """The results, JSON; runs that are there are not repeated."""
    models: tuple[str, ...] = ("c2d_tiny_nl2",)
    """Networks of the demo."""
    disturbances: tuple[str, ...] = ("none", "noise")
    """Of none, noise, chunked, no_mkldnn and two_threads."""
    seeds: tuple[int, ...] = tuple(range(20))
    """Of the runs."""
    work: Path = field(default_factory=lambda: Path(tempfile.mkdtemp()))
    """Where the videos are written; one folder can serve several calls."""


def main(options: Options) -> int:
    if unknown := set(options.disturbances) - set(DISTURBANCES):
        raise SystemExit(f"disturbances must be of {', '.join(DISTURBANCES)}; got {unknown}")
    ready = options.work / "ready"
    if not ready.exists():
        write_videos(options.work, TRAIN_VIDEOS, TEST_VIDEOS)
        ready.touch()
    for disturbance in options.disturbances:
        for model in options.models:
            for seed in options.seeds:
                key = f"{model}/{disturbance}/{seed}"
                if key in read(options.out):
                    continue
                row = run(options.work, model, seed, disturbance)
                write(options.out, key, row)
                console.print(f"{key}: {row['accuracy']:.2%}, {row['seconds']} s")
    return 0


def run(work: Path, model: str, seed: int, disturbance: str) -> dict[str, float]:
    """Train and test a network; its processor time is that of all its threads."""
    started, began = time.process_time(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, disturbed(disturbance):
        config = train_config(work / "train", Path(folder) / "run", model, seed).resolve()
        trainer = Trainer(config, torch.device("cpu"))
        disturb_network(trainer.learner.network, disturbance, seed)
        result = trainer.fit()
        if result.interrupted:
            raise SystemExit(130)
        accuracy = test_accuracy(result.weights, work / "test")
    return {
        "accuracy": accuracy,
        "seconds": round(time.monotonic() - began),
        "processor_seconds": round(time.process_time() - started),
    }


@contextlib.contextmanager
def disturbed(disturbance: str) -> Generator[None]:
    """Change how torch computes, and change it back."""
    torch.set_num_threads(2 if disturbance == "two_threads" else 1)
    torch.backends.mkldnn.enabled = disturbance != "no_mkldnn"
    try:
        yield
    finally:
        torch.set_num_threads(1)
        torch.backends.mkldnn.enabled = True


def disturb_network(network: torch.nn.Module, disturbance: str, seed: int) -> None:
    """Change the initial weights, or how the blocks compute."""
    if disturbance == "noise":
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.mul_(1 + NOISE * noise)
    if disturbance == "chunked":
        for module in network.modules():
            if isinstance(module, NonLocalBlock):
                module.implementation = "chunked"


def read(file: Path) -> dict[str, dict[str, float]]:
    """Read the runs so far."""
    return json.loads(file.read_text())["runs"] if file.exists() else {}


def write(file: Path, key: str, row: dict[str, float]) -> None:
    """Add a run, and summarize those of each network and disturbance."""
    runs = {**read(file), key: row}
    groups: dict[str, list[float]] = {}
    for name, of in runs.items():
        groups.setdefault(name.rpartition("/")[0], []).append(of["accuracy"])
    found = {
        "machine": machine("cpu"),
        "avx512": "avx512" in Path("/proc/cpuinfo").read_text(),
        "iterations": ITERATIONS,
        "batch_size": BATCH_SIZE,
        "clip": CLIP,
        "disturbances": DISTURBANCES,
        "summary": {
            name: {
                "seeds": len(values),
                "mean": round(statistics.mean(values), 5),
                "lowest": min(values),
                "highest": max(values),
            }
            for name, values in groups.items()
        },
        "runs": dict(sorted(runs.items(), key=order)),
    }
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(file, lambda place: place.write_text(text))


def order(item: tuple[str, dict]) -> tuple[str, str, int]:
    """Sort by network, disturbance and seed."""
    model, disturbance, seed = item[0].split("/")
    return model, disturbance, int(seed)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
