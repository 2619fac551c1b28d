"""How much memory each implementation takes, measured in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.ops.plan import IMPLEMENTATIONS_OF

MEASURED = {  # one form for each implementation
    name: form
    for form, names in IMPLEMENTATIONS_OF.items()
    for name in names
    if name not in ("auto", "triton")
}
N, M, WIDTH = 12544, 3136, 16
LINEAR = 5 * (N + M) * 2 * WIDTH * 4  # bytes: all inputs, or all gradients, five times
BUDGET = 12 * 2**20
FRAMES = 16


def peak(pairwise: str, implementation: str, n: int, m: int, frames: int | None = None) -> int:
    """Bytes that forward and backward take at most, beyond what is there before."""
    shapes = {"theta": (n, WIDTH), "phi": (m, WIDTH), "g": (m, WIDTH)}
    tensors = {name: torch.randn(1, *shape) for name, shape in shapes.items()}
    if pairwise == "concatenation":
        tensors["w_f"] = torch.randn(2 * WIDTH)
    leaves = {name: t.requires_grad_() for name, t in tensors.items()}
    options = {"implementation": implementation, "memory_budget": BUDGET, "causal_frames": frames}
    mask = torch.arange(m)[None] < m - 1
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    y = nl.non_local(**leaves, pairwise=pairwise, mask=mask, **options)
    torch.autograd.grad(y.sum(), list(leaves.values()))
    return resident("VmHWM") - before


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def print_peaks() -> None:
    peaks = {}
    for implementation, pairwise in MEASURED.items():
        peak(pairwise, implementation, 64, 64)  # libraries are loaded, threads are started
        peaks[implementation] = peak(pairwise, implementation, N, M)
        peak(pairwise, implementation, 64, 64, FRAMES)
        peaks[f"causal {implementation}"] = peak(pairwise, implementation, N, M, FRAMES)
    print(json.dumps(peaks))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells peaks")
def test_memory_is_linear_in_the_positions_or_within_the_budget():
    own = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}  # what is freed goes back
    run = subprocess.run(
        [sys.executable, "-W", "ignore", __file__],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    peaks = json.loads(run.stdout)
    assert peaks.pop("reference") > 4 * N * M > LINEAR + BUDGET
    assert peaks.pop("causal reference") > 4 * N * M * (FRAMES + 1) / (2 * FRAMES)
    allowed = {name: LINEAR + (BUDGET if "chunked" in name else 0) for name in peaks}
    assert [(name, peaks[name], most) for name, most in allowed.items() if peaks[name] > most] == []


if __name__ == "__main__":
    print_peaks()
