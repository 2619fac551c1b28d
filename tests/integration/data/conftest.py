from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


@pytest.fixture(scope="session")
def moving() -> np.ndarray:
    """40 frames of 48x64 of which no two are alike: a texture that slides and brightens."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 120, (48, 128, 3), dtype=np.uint8)
    return np.stack([texture[:, i : i + 64] + 3 * i for i in range(40)]).astype(np.uint8)


@pytest.fixture(scope="session")
def encode() -> Callable[..., Path]:
    """encode(path, frames, ...): write a video with any codec, time stamps, rotation, colors."""

    def write(
        path: Path,
        frames: np.ndarray,
        codec: str = "libx264",
        options: dict[str, str] | None = None,
        pts: list[int] | None = None,
        rate: int = 25,
        turn: tuple[float, bool] | None = None,
        container: dict[str, str] | None = None,
        pix_fmt: str = "yuv420p",
        pixel_shape: Fraction | None = None,
        colors: tuple[int, int] | None = None,
    ) -> Path:
        with av.open(str(path), "w", options=container or {}) as file:
            stream = file.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = pix_fmt
            stream.codec_context.thread_count = 1
            if turn is not None:
                stream.set_display_rotation(turn[0], hflip=turn[1])
            if pixel_shape is not None:
                stream.codec_context.sample_aspect_ratio = pixel_shape
            if colors is not None:
                stream.codec_context.colorspace, stream.codec_context.color_range = colors
            for i, array in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(
                    array, format="rgba" if array.shape[2] == 4 else "rgb24"
                )
                if pts is not None:
                    frame.pts = pts[i]
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        # SVT-AV1 gives root's thread the priority of the kernel's own: it would keep all others,
        # the threads of another encoder too, from running ever again
        if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        return path

    return write


@pytest.fixture(scope="session")
def in_order() -> Callable[[Path], np.ndarray]:
    """in_order(path): all frames (T, H, W, 3), by nothing but PyAV's own plain loop."""

    def read(path: Path) -> np.ndarray:
        with av.open(str(path), metadata_errors="ignore") as file:
            file.streams.video[0].codec_context.thread_count = 1
            return np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])

    return read


@pytest.fixture(scope="session")
def sound() -> Callable[[Path], Path]:
    """sound(path): write a second of silence, without a picture."""

    def write(path: Path) -> Path:
        with av.open(str(path), "w") as file:
            stream = file.add_stream("aac", rate=16000)
            samples = np.zeros((1, 16000), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.rate = 16000
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        return path

    return write
