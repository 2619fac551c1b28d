"""Time and memory of the frame-causal extent against the usual form, with its N x M mask.

    python benchmarks/causal.py --out benchmarks/results/causal_cpu.json

Forward + backward and peak memory, one sample, float32. The first size is a tile of a video
autoencoder (17 frames of 32 x 32, every position a key), the second a block of a video network (8
frames of 28 x 28, keys pooled by 2 x 2). The usual form is written here as such autoencoders write
it: scores of all pairs and a mask. Beside the peaks stand the bytes of one N x M matrix.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import nonlocalnet as nl
from measure import MIB, in_a_process, machine, milliseconds, peak_mib
from operation import make

SIZES = [(17, 1024, 1024, 512), (17, 1024, 1024, 64), (8, 784, 196, 256)]  # T, N/T, M/T, d = c
FORMS = ["embedded_gaussian", "dot_product", "concatenation"]


@dataclass
class Options:
    """What to measure."""

    out: Path = Path("benchmarks/results/causal_cpu.json")
    """results"""
    memory_of: str | None = None
    """for this script itself: print the peak MiB of one case"""


def usual(theta, phi, g, pairwise, causal_frames, w_f=None):
    """The operation with an N x M mask."""
    frames = [torch.arange(x.shape[1]) // (x.shape[1] // causal_frames) for x in (theta, phi)]
    seen = (frames[0][:, None] >= frames[1]).to(theta.device)
    if pairwise == "embedded_gaussian":
        mask = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)
        return (theta @ phi.mT + mask).softmax(2) @ g
    if pairwise == "concatenation":
        w_theta, w_phi = w_f.chunk(2)
        f = ((theta @ w_theta).unsqueeze(2) + (phi @ w_phi).unsqueeze(1)).relu()
    else:
        f = theta @ phi.mT
    return (f * seen / seen.sum(1, keepdim=True)) @ g


def both(case: dict):
    """Forward + backward of a case."""
    t, n, m, d = (case[key] for key in ("frames", "n", "m", "d"))
    tensors, options, grad = make(case["form"], "float32", d, t * n, t * m, 1, case["device"])
    compute = {"usual": usual, "ours": nl.non_local}[case["which"]]
    return lambda: compute(*tensors, case["form"], causal_frames=t, **options).backward(grad)


def main(options: Options) -> None:
    """Measure every case."""
    torch.set_num_threads(1)
    if options.memory_of:
        case = json.loads(options.memory_of)
        both(case | {"n": 16, "m": 8})()  # what torch loads once
        print(peak_mib(both(case), "cpu"))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = {"machine": machine(device), "cases": []}
    for size in SIZES:
        for form in FORMS:
            row = dict(zip(("frames", "n", "m", "d"), size, strict=True))
            row |= {"form": form, "device": device}
            functions = {which: both(row | {"which": which}) for which in ("usual", "ours")}
            times = milliseconds(functions, device, least=2)
            t, n, m, d = size
            tensors, extra, _ = make(form, "float32", d, t * n, t * m, 1, device)
            plan = nl.explain(*tensors, form, causal_frames=t, **extra)
            matrix = 4 * t * n * t * m / MIB
            row |= {"implementation": plan.implementation, "matrix_mib": matrix}
            for which, function in functions.items():
                case = row | {"which": which}
                on_gpu = device == "cuda"
                peak = peak_mib(function, device) if on_gpu else in_a_process(__file__, case)
                row |= {f"{which}_ms": times[which], f"{which}_mib": peak}
            results["cases"].append(row)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
            print(
                {k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()}, flush=True
            )


if __name__ == "__main__":
    main(tyro.cli(Options))
