"""Write a video file from frames."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import av
import numpy as np


def write_video(path: str | Path, frames: np.ndarray, fps: int = 8, codec: str = "libx264") -> None:
    """Write frames as a video file, atomically.

    Args:
        path: its suffix chooses the container.
        frames: uint8 (T, H, W, 3), RGB, H and W even (yuv420p stores colors at half the size).
        fps: frames a second.
        codec: FFmpeg's name of the encoder; H.264 is written at CRF 10, which changes flat colors
            by a few levels only.

    Raises:
        ValueError: the frames have another shape or type, or odd sizes.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(
            f"yuv420p needs even sizes, got {height}x{width}: pad or crop by one pixel"
        )
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with av.open(str(partial.absolute()), "w") as container:
            options = {"crf": "10", "preset": "veryfast"} if codec == "libx264" else {}
            stream = cast("av.VideoStream", container.add_stream(codec, rate=fps, options=options))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.thread_count = 1  # the same bytes on every machine
            for frame in frames:
                image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
