"""A folder of numbered pictures as a video: its frames by number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import av
import numpy as np

from nonlocalnet.data.numbering import numbered
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.video.frame_reader import Fit, FrameReader
from nonlocalnet.data.video.open import MAX_PIXELS, VideoError, VideoInfo
from nonlocalnet.errors import FileError, printable

ASSUMED_RATE = 25.0  # frames a second: pictures do not say

# by a picture's first bytes, not its name; and no demuxer, which might open other files
CODECS = {b"\xff\xd8": "mjpeg", b"\x89PNG": "png", b"BM": "bmp", b"RIFF": "webp"}


class FrameFolder(FrameReader):
    """Open a folder of numbered pictures.

    Frame i is the i-th picture in the order of the numbers, which may begin anywhere; missing
    numbers are skipped (`missing` lists them). Pictures are JPEG, PNG, BMP or WebP, all of one
    size, and shown as they are stored: EXIF rotation is not applied.

    Raises:
        VideoError: the folder holds no series of pictures, or several.
    """

    _kind = "folder"

    def __init__(self, path: str | Path | PackedVideo) -> None:
        super().__init__(path)
        self._read: Callable[[Path], bytes] = Path.read_bytes
        try:
            if isinstance(self.path, PackedVideo):
                files = self.path.read_pictures()
                self._read = files.read
            else:
                files = self.path.iterdir()
            series = numbered(files, asked=True)
        except FileError as error:
            raise VideoError(self.path, error.reason) from None
        except OSError as error:
            raise VideoError(self.path, f"cannot be listed ({error.strerror})") from None
        if series is None:
            raise VideoError(
                self.path,
                "is a directory, and holds no numbered pictures such as 00001.jpg, 00002.jpg",
            )
        if series.others:
            first = f"{series.frames[0].name}, ..."
            raise VideoError(
                self.path,
                f"holds several series of pictures, {first} and {', '.join(series.others)}: "
                "keep one in a folder",
            )
        if series.twice:
            raise VideoError(self.path, f"has several pictures with the number {series.twice[0]}")
        self.pictures = series.frames
        self.missing = series.missing
        self._contexts: dict[str, av.VideoCodecContext] = {}

    def read(self, picture: Path) -> bytes:
        """Read the bytes of one of `pictures`."""
        return self._read(picture)

    def close(self) -> None:
        """Release the decoders."""
        self._contexts.clear()

    @property
    def num_frames(self) -> int:
        """The number of pictures."""
        return len(self.pictures)

    def info(self) -> VideoInfo:
        """Describe the video, at `ASSUMED_RATE` frames a second; this decodes its first picture."""
        first = self._decode(self.pictures[0])
        seconds = self.num_frames / ASSUMED_RATE
        return VideoInfo(self.num_frames, first.height, first.width, ASSUMED_RATE, seconds)

    def decode(self, wanted: Sequence[int]) -> Iterator[av.VideoFrame]:
        """Decode pictures one after the other, as they are stored.

        Raises:
            VideoError: one cannot be read, or has another size than the first.
        """
        first: av.VideoFrame | None = None
        for i in wanted:
            frame = self._decode(self.pictures[i])
            first = first or frame
            if (frame.width, frame.height) != (first.width, first.height):
                raise VideoError(
                    self.path,
                    f"{self.pictures[i].name} is {frame.width}x{frame.height}, "
                    f"{self.pictures[wanted[0]].name} is {first.width}x{first.height}: "
                    "frames of one video have one size",
                )
            yield frame

    def times(self) -> list[float]:
        """Give the time of each picture, at `ASSUMED_RATE` a second."""
        return [i / ASSUMED_RATE for i in range(self.num_frames)]

    def _pick(self, wanted: list[int], fit: Fit) -> Iterator[np.ndarray]:
        for frame in self.decode(wanted):
            yield self._to_rgb(frame, fit(frame.height, frame.width))

    def _decode(self, picture: Path) -> av.VideoFrame:
        try:
            data = self.read(picture)
        except OSError as error:
            raise self._fault(picture, f"cannot be read ({error.strerror})") from None
        codec = next((name for head, name in CODECS.items() if data.startswith(head)), None)
        if codec is None:
            raise self._fault(picture, "not a picture" if data else "the file is empty")
        context = self._contexts.get(codec)
        if context is None:
            context = cast("av.VideoCodecContext", av.CodecContext.create(codec, "r"))
            self._contexts[codec] = context
            context.thread_count = 1
            # a picture that breaks off is an error, not half a picture
            context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
        packet = av.Packet(data)
        packet.is_keyframe = True  # else a PNG is taken for the difference to the one before
        try:
            frames = context.decode(packet)
        except av.FFmpegError as error:
            raise self._fault(picture, f"not a readable picture ({error.strerror})") from None
        if not frames:
            raise self._fault(picture, "holds no picture")
        return frames[0]

    def _fault(self, picture: Path, reason: str) -> VideoError:
        return VideoError(self.path, f"{printable(picture.name)}: {reason}")
