"""Time and peak memory of a function, fairly: on a CPU one thread and its own seconds.

Timings of several functions are interleaved and the best of several rounds counts, so that a busy
machine harms all alike. Memory is the peak above what was there before the call: on a CPU the
resident set (Linux), measured in a process of its own; on a GPU what torch allocates.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

MIB = 2**20


def machine(device: str) -> str:
    """Name what the numbers were measured on."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, 1 thread, torch {torch.__version__}"


def milliseconds(
    functions: dict[str, Callable], device: str, *, least: int = 5, slow_ms: float = 3000
) -> dict[str, float]:
    """Time each function, in turn: the best of `least` to 40 rounds, of one where it is slow."""
    best = dict.fromkeys(functions, float("inf"))
    started, rounds = time.monotonic(), 0
    while rounds < least or (rounds < 40 and time.monotonic() - started < 4):
        for name, function in functions.items():
            if rounds == 0 or best[name] < slow_ms:
                best[name] = min(best[name], once(function, device))
        rounds += 1
    return best


def once(function: Callable, device: str) -> float:
    """Time one call, in milliseconds."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)
    started = time.process_time()
    function()
    return 1000 * (time.process_time() - started)


def peak_mib(function: Callable, device: str) -> float:
    """Measure one call's peak memory; on a CPU, call it in a process of its own."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark starts afresh
    function()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """Kibibytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


def in_a_process(script: str, case: dict) -> float | None:
    """Run `script --memory-of CASE`, which prints one number; None if it died."""
    done = run_itself(script, "--memory-of", case, {"MALLOC_MMAP_THRESHOLD_": "65536"})
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def run_itself(
    script: str,
    option: str,
    case: object,
    environment: dict[str, str] | None = None,
    seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `script OPTION CASE` in a process of its own, on one thread; see `subprocess.run`."""
    return subprocess.run(
        [sys.executable, script, option, json.dumps(case)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=seconds,
    )
