"""Open a video file, or say in one sentence why it is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
from av.stream import Disposition

from nonlocalnet.errors import FileError

MAX_PIXELS = 64_000_000  # a frame beyond is a broken or hostile header, not a video

MAX_BYTES = 4 * 2**30  # of frames read at a time: 16 seconds of full HD

LISTS = ("concat", "dash", "hls", "imf")  # FFmpeg would show whatever files they name


class VideoError(FileError):
    """Say which video cannot be read, and why: "PATH: reason"."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds: frames, size in pixels as shown (after rotation), rate, seconds."""

    num_frames: int
    height: int
    width: int
    fps: float
    duration: float


def check_memory(path: Path, frames: int, size: tuple[int, int]) -> None:
    """Raise a VideoError for that many frames of height and width if MAX_BYTES do not hold them."""
    height, width = size
    if (needed := 3 * frames * height * width) > MAX_BYTES:
        raise VideoError(
            path,
            f"{frames} frames of {width} x {height} pixels take {needed / 2**30:.0f} GiB; at most "
            f"{MAX_BYTES >> 30} GiB are read at a time: ask for fewer frames, or smaller ones",
        )


def open_video(
    path: Path, *, threads: int = 1
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open a local file and its best video stream, to be decoded with `threads` threads.

    The best stream is FFmpeg's choice: the default one, else the one with more frames, then more
    bits. Cover pictures and thumbnails are no video streams. Raises VideoError for a file that is
    missing, empty, a picture or no video, and for frames beyond MAX_PIXELS.
    """
    if not path.exists():
        raise VideoError(path, "no such file")
    if not path.is_file():
        raise VideoError(path, "is a directory" if path.is_dir() else "not a regular file")
    if path.stat().st_size == 0:
        raise VideoError(path, "the file is empty")
    try:
        # absolute, so that a colon in the name is not read as a protocol
        container = av.open(
            str(path.absolute()),
            metadata_errors="ignore",
            options={"protocol_whitelist": "file"},
        )
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"not a readable video ({error.strerror})") from error
    try:
        return container, _video_stream(path, container, threads)
    except BaseException:
        container.close()
        raise


def _video_stream(
    path: Path, container: av.container.InputContainer, threads: int
) -> av.VideoStream:
    if container.format.name == "tty":  # FFmpeg renders text files as video
        raise VideoError(path, "a text file, not a video")
    if container.format.name in LISTS:
        raise VideoError(path, "a list of other files, not a video")
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
    # the container's header is one promise, the coded data another
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream
