"""Time forward and backward of the small networks in the two memory formats, on one CPU thread.

    python benchmarks/memory_format.py

Both formats run in the same process, in turn; the best of three is printed, and the ratio.
"""

from __future__ import annotations

import time

import torch

import nonlocalnet as nl

CLIPS, FRAMES, SIDE, REPEATS = 16, 37, 64, 3
FORMATS = {"default": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}


def step_seconds(name: str, memory_format: torch.memory_format) -> float:
    """Time one step, after one to warm up."""
    torch.manual_seed(0)
    model = nl.create_model(
        name, num_classes=4, clip=f"{FRAMES}x2", crop=SIDE, temporal_stride=1
    ).to(memory_format=memory_format)  # ty: ignore
    clips = torch.randn(CLIPS, 3, FRAMES, SIDE, SIDE).contiguous(memory_format=memory_format)
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        model(clips).sum().backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in ("c2d_small", "i3d_small", "i3d_small_nl2"):
        found = {key: step_seconds(name, value) for key, value in FORMATS.items()}
        ratio = found["default"] / found["channels_last_3d"]
        print(name, *(f"{key} {value:.2f} s" for key, value in found.items()), f"{ratio:.2f}x")
