"""Time a training step of the small networks by memory format and precision, on one CPU thread.

    python benchmarks/memory_format.py

All run in the same process, in turn; the best of three is printed, with its ratio to the default.
"""

from __future__ import annotations

import time

import torch

import nonlocalnet as nl

CLIPS, FRAMES, SIDE, REPEATS = 16, 37, 64, 3
SETTINGS = {
    "default": (torch.contiguous_format, torch.float32),
    "channels_last_3d": (torch.channels_last_3d, torch.float32),
    "channels_last_3d, bfloat16 autocast": (torch.channels_last_3d, torch.bfloat16),
}


def step_seconds(name: str, memory_format: torch.memory_format, dtype: torch.dtype) -> float:
    """Time one step, after one to warm up."""
    torch.manual_seed(0)
    model = nl.create_model(
        name, num_classes=4, clip=f"{FRAMES}x2", crop=SIDE, temporal_stride=1
    ).to(memory_format=memory_format)  # ty: ignore
    clips = torch.randn(CLIPS, 3, FRAMES, SIDE, SIDE).contiguous(memory_format=memory_format)
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(clips).sum()
        loss.backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in ("c2d_small", "i3d_small", "i3d_small_nl2"):
        found = {key: step_seconds(name, *value) for key, value in SETTINGS.items()}
        print(name)
        for key, seconds in found.items():
            print(f"  {key:38} {seconds:6.2f} s  {found['default'] / seconds:.2f}x")
