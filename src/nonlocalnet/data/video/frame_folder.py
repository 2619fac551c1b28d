"""A folder of numbered pictures as a video: its frames by number, as `VideoReader` gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from nonlocalnet.data.numbering import numbered
from nonlocalnet.data.sampling import short_side_size
from nonlocalnet.data.video.open import MAX_PIXELS, VideoError, VideoInfo, check_memory
from nonlocalnet.errors import printable

ASSUMED_RATE = 25.0  # frames a second: pictures do not say

# by a picture's first bytes, whatever its name; no demuxer, which might open other files
CODECS = {b"\xff\xd8": "mjpeg", b"\x89PNG": "png", b"BM": "bmp", b"RIFF": "webp"}


class FrameFolder:
    """Open a folder of numbered pictures, for its length and its frames.

    Frame i is the i-th picture in the order of the numbers, wherever they begin; numbers that are
    missing are passed over (`missing`). Pictures are JPEG, PNG, BMP or WebP, all of one size, and
    shown as they are stored: EXIF rotation is not applied.

    Raises VideoError, here and in `frames`, for whatever is wrong with the folder or a picture.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            series = numbered(self.path.iterdir(), asked=True)
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
        self._reformatter = VideoReformatter()
        self._contexts: dict[str, av.VideoCodecContext] = {}

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the decoders."""
        self._contexts.clear()

    @property
    def num_frames(self) -> int:
        """The number of pictures."""
        return len(self.pictures)

    def info(self) -> VideoInfo:
        """Describe the video, at `ASSUMED_RATE` frames a second; decodes its first picture."""
        first = self._decode(self.pictures[0])
        seconds = self.num_frames / ASSUMED_RATE
        return VideoInfo(self.num_frames, first.height, first.width, ASSUMED_RATE, seconds)

    def frames(self, indices: Sequence[int], *, short_side: int | None = None) -> Tensor:
        """Decode the frames `indices`: as `nonlocalnet.data.video.reader.decode`."""
        wanted = sorted(set(indices))
        if not wanted:
            raise ValueError("indices is empty: name at least one frame")
        if wanted[0] < 0 or wanted[-1] >= self.num_frames:
            worst = wanted[0] if wanted[0] < 0 else wanted[-1]
            count = f"{self.num_frames} frame{'s' if self.num_frames > 1 else ''}"
            raise VideoError(self.path, f"frame {worst} is out of range, the folder has {count}")
        picked = []
        for frame in self.decode(wanted):
            size = (frame.height, frame.width)
            if short_side is not None and min(size) > short_side:
                size = short_side_size(*size, short_side)
            check_memory(self.path, len(indices), size)
            rgb = self._reformatter.reformat(
                frame, size[1], size[0], "rgb24", interpolation="BILINEAR", threads=1
            )
            picked.append(rgb.to_ndarray())
        frames = torch.from_numpy(np.stack(picked)).permute(0, 3, 1, 2)
        if list(indices) == wanted:
            return frames
        place = {i: k for k, i in enumerate(wanted)}
        return frames[[place[i] for i in indices]]

    def decode(self, wanted: Sequence[int]) -> Iterator[av.VideoFrame]:
        """Decode pictures one after the other, as they are stored; all must have one size."""
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

    def _decode(self, picture: Path) -> av.VideoFrame:
        try:
            data = picture.read_bytes()
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
            # a picture that breaks off is an error, not one half of it
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
