"""Open a video file, or say in one sentence why that is not possible."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import av
from av.stream import Disposition

from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.errors import FileError

MAX_PIXELS = 64_000_000  # of a frame; a header that claims more is broken or hostile
LISTS = ("concat", "dash", "hls", "imf")  # FFmpeg would open any file that they name


class VideoError(FileError):
    """Say which video cannot be read, and why: "PATH: reason"."""


@dataclass(frozen=True)
class VideoInfo:
    """A video: number of frames, size in pixels as shown (after rotation), rate, seconds."""

    num_frames: int
    height: int
    width: int
    fps: float
    duration: float


def open_video(
    path: Path | PackedVideo, *, threads: int = 1, strict: bool = False
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open a file, or a video in packed data, and its best stream, to be decoded with `threads`.

    The best stream is FFmpeg's choice: the default one, else the one with more frames, then more
    bits. Cover pictures and thumbnails do not count as video streams.

    Args:
        path: the video.
        threads: of the decoder.
        strict: let damage in HEVC raise an error. Otherwise, a frame that lacks a piece shows there
            what was in memory before.

    Raises:
        VideoError: the file is missing, empty, a picture or no video, or its frames have more than
            MAX_PIXELS.
    """
    try:
        if isinstance(path, PackedVideo):
            # FFmpeg reads through Python here, as fast as by itself: see docs/data.md
            source, size = path.open(), path.length
        else:
            # absolute, so that a colon in the name is not read as a protocol
            source, size = str(path.absolute()), _size_of(path)
    except FileError as error:
        raise VideoError(path, error.reason) from None
    if size == 0:
        raise VideoError(path, "the file is empty")
    try:
        container = av.open(
            source, "r", metadata_errors="ignore", options={"protocol_whitelist": "file"}
        )
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"not a readable video ({error.strerror})") from error
    try:
        if container.format.name in LISTS:
            raise VideoError(path, "a list of other files, not a video")
        stream = best_stream(path, container, threads)
        if strict and stream.codec_context.name == "hevc":
            stream.codec_context.options |= {"err_detect": "explode"}
        return container, stream
    except BaseException:
        container.close()
        raise


def _size_of(path: Path) -> int:
    try:
        status = os.stat(path)
    except OSError as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        raise VideoError(path, "no such file" if missing else str(error.strerror)) from None
    if not stat.S_ISREG(status.st_mode):
        folder = stat.S_ISDIR(status.st_mode)
        raise VideoError(path, "is a directory" if folder else "not a regular file")
    return status.st_size


def best_stream(
    path: str | Path | PackedVideo, container: av.container.InputContainer, threads: int
) -> av.VideoStream:
    """Choose the best video stream of what was opened: see `open_video`."""
    if container.format.name == "tty":  # FFmpeg renders text files as video
        raise VideoError(path, "a text file, not a video")
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise VideoError(path, "a picture, not a video")
    cover = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise VideoError(path, "holds no video stream")
    best = container.streams.best("video")
    # FFmpeg's choice may be a cover
    stream = next((s for s in streams if s is best), streams[0])
    context = stream.codec_context
    if context is None:
        raise VideoError(path, "no decoder for its video codec")
    height, width = context.height, context.width
    if height < 1 or width < 1:
        raise VideoError(path, "its header gives no frame size, or an impossible one")
    if height * width > MAX_PIXELS:
        raise VideoError(
            path, f"frames of {width}x{height} are beyond the limit of {MAX_PIXELS:,} pixels"
        )
    context.thread_count = threads
    # the coded data may have another size than the container's header says
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream
