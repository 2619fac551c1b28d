"""Time of the newest frame of a stream, against computing all frames so far again.

    python benchmarks/streaming.py --out benchmarks/results/streaming_cpu.json

A causal block on maps of 14 x 14 with keys pooled by 2 x 2, and a C2D network with causal blocks,
one sample, float32. A stream takes 1000 frames, one at a time; the time of frame n is the best of
the five up to n. The offline time is that of the module on frames 1 to n. Beside them stands what
the stream keeps, and how far its result for frame n is from the offline one.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import nonlocalnet as nl
from measure import MIB, machine

AT = (10, 100, 1000)
LAST = 5  # frames up to each of these of which the best time counts
CAUSAL = {"extent": "causal", "clip": "8x8", "num_classes": 400}


@dataclass
class Options:
    """What to measure."""

    out: Path = Path("benchmarks/results/streaming_cpu.json")
    """results"""


def block(pairwise: str) -> tuple[nl.NonLocalBlock, torch.Tensor]:
    """A block of 128 channels that is not the identity, and frames for it."""
    made = nl.NonLocalBlock(128, pairwise=pairwise, extent="causal", subsample=(1, 2, 2))
    torch.nn.init.ones_(made.norm.weight)
    return made.eval(), torch.randn(1, 128, max(AT), 14, 14)


def network(pairwise: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A C2D network with two blocks, and frames for it."""
    made = nl.create_model("c2d_small_nl2", pairwise=pairwise, crop=56, **CAUSAL)
    for module in made.modules():
        if isinstance(module, nl.NonLocalBlock):
            torch.nn.init.ones_(module.norm.weight)
    return made.eval(), torch.randn(1, 3, max(AT), 56, 56)


CASES = {
    "block": (block, ["dot_product", "concatenation", "embedded_gaussian"]),
    "c2d_small_nl2": (network, ["dot_product", "embedded_gaussian"]),
}


def milliseconds(function) -> tuple[torch.Tensor, float]:
    """Call a function; return its result and this thread's time."""
    started = time.process_time()
    result = function()
    return result, 1000 * (time.process_time() - started)


@torch.no_grad()
def main(options: Options) -> None:
    """Measure every case."""
    torch.set_num_threads(1)
    results = {"machine": machine("cpu"), "cases": []}
    for name, (make, forms) in CASES.items():
        for form in forms:
            torch.manual_seed(0)
            module, video = make(form)
            stream, times = nl.Stream(module), []
            for n, frame in enumerate(video.split(1, dim=2), start=1):
                online, ms = milliseconds(lambda: stream(frame))  # noqa: B023
                times.append(ms)
                if n not in AT:
                    continue
                offline, again = milliseconds(lambda: module(video[:, :, :n]))  # noqa: B023
                offline = offline[:, :, -1:] if offline.ndim == 5 else offline
                kept = [
                    x for past in stream.state_dict().values() for x in past["tensors"].values()
                ]
                row = {
                    "module": name,
                    "form": form,
                    "frame": n,
                    "stream_ms": min(times[-LAST:]),
                    "offline_ms": again,
                    "kept_mib": sum(x.nbytes for x in kept) / MIB,
                    "difference": ((online - offline).abs().max() / offline.abs().max()).item(),
                }
                results["cases"].append(row)
                options.out.write_text(json.dumps(results, indent=1) + "\n")
                print(row, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
