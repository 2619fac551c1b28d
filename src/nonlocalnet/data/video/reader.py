"""Read frames of a video file by number, with PyAV: no more than needed, and always the right ones.

Frame i is the i-th frame that decoding the whole file in order would give. Where the file's time
stamps allow it, decoding starts at the last frame before i at which it can. The decoded frames are
compared with the time stamps; if they differ, the file is decoded in order from its start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from nonlocalnet.data.packs.index import find_packed
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.video.frame_folder import FrameFolder
from nonlocalnet.data.video.frame_index import decode_in_order, index_frames, whole_packets
from nonlocalnet.data.video.frame_reader import Fit, FrameReader
from nonlocalnet.data.video.open import VideoError, VideoInfo, open_video
from nonlocalnet.data.video.rotation import upright

if TYPE_CHECKING:
    from torch import Tensor

FEW_FRAMES = 8  # decoding so many more is cheaper than a seek


class VideoReader(FrameReader):
    """Open a video file, for its length and its frames.

    Args:
        path: a local file, or a video in packed data.
        threads: of the decoder; the workers of a DataLoader run in parallel already.

    Raises:
        VideoError: the file cannot be read.
    """

    def __init__(self, path: str | Path | PackedVideo, *, threads: int = 1) -> None:
        super().__init__(path)
        self._threads = threads
        self._open(strict=True)
        self._closed = False
        # a stream's size may change midway, and its codec's context with it
        context = self._stream.codec_context
        self._height, self._width = context.height, context.width
        try:
            self._index = index_frames(self.path, self._container, self._stream)
            if self._index.num_frames == 0:
                raise VideoError(self.path, "the video stream holds no frames")
        except BaseException:
            self.close()
            raise

    def _open(self, *, strict: bool) -> None:
        self._strict = strict
        self._container, self._stream = open_video(self.path, threads=self._threads, strict=strict)

    def close(self) -> None:
        """Close the file; closing it twice does no harm."""
        self._closed = True
        self._container.close()

    @property
    def num_frames(self) -> int:
        """The number of frames, counted from the packets."""
        return self._index.num_frames

    def info(self) -> VideoInfo:
        """Describe the video; this decodes its first frame, as only frames tell the rotation."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        duration = self._index.duration or (self.num_frames / float(rate) if rate else 0.0)
        fps = self.num_frames / duration if duration else 0.0
        height, width = next(self._pick([0], lambda *size: size)).shape[:2]
        return VideoInfo(self.num_frames, height, width, fps, duration)

    def times(self) -> list[float]:
        """Give the time of each frame, by the file's time stamps or else by its frame rate."""
        stamps, tick = self._index.stamps, self._stream.time_base
        if stamps and tick:
            return [float((stamp - stamps[0]) * tick) for stamp in stamps]
        rate = self._stream.average_rate or self._stream.guessed_rate
        if not rate:
            raise VideoError(self.path, "has neither time stamps nor a frame rate")
        return [float(i / rate) for i in range(self.num_frames)]

    def _pick(self, wanted: list[int], fit: Fit) -> Iterator[np.ndarray]:
        if self._closed:  # FFmpeg would crash
            raise ValueError(f"{self.path} is closed: ask for frames inside the with block")
        size = fit(self._height, self._width)
        picked = 0
        try:
            for image in self._pick_by_stamp(wanted, size):
                yield image
                picked += 1
        except (_NotAsIndexed, av.FFmpegError):
            yield from self._pick_in_order(wanted[picked:], size)

    def _pick_by_stamp(self, wanted: list[int], size: tuple[int, int]) -> Iterator[np.ndarray]:
        index = self._index
        if not index.stamps:
            raise _NotAsIndexed
        if not self._strict:
            self._container.close()
            self._open(strict=True)
        number = {stamp: i for i, stamp in enumerate(index.stamps)}
        stamps = {index.stamps[i] for i in wanted}
        frames: Iterator[av.VideoFrame] | None = None
        first = position = -1
        for i in wanted:
            key = index.key_before(i)
            if key is None:
                raise _NotAsIndexed
            if frames is None or key - position > FEW_FRAMES:
                frames, first, position = self._decode_from(key, stamps), key, -1
            while position < i:
                frame = next(frames, None)
                shown = -1 if frame is None else number.get(frame.pts, -1)
                if frame is None or shown < 0 or shown <= position:
                    raise _NotAsIndexed
                if shown < first:  # it may refer to frames that were skipped
                    continue
                # trust the decoder more than a flag; what it repairs depends on where it started
                restarts = position >= first or (shown == first and frame.key_frame)
                if not restarts or frame.is_corrupt:
                    raise _NotAsIndexed
                position = shown
            if position != i or frame is None:
                raise _NotAsIndexed
            yield upright(self._to_rgb(frame, size), frame)

    def _decode_from(self, key: int, wanted: Set[int]) -> Iterator[av.VideoFrame]:
        stamp = self._index.stamps[key]
        self._container.seek(stamp, stream=self._stream)
        sought = False
        for packet in whole_packets(self._container, self._stream):
            at_key = packet.is_keyframe and packet.pts is not None and packet.pts <= stamp
            if not (sought or at_key):
                raise _NotAsIndexed
            sought = True
            # a frame that no other refers to is decoded only if it is wanted
            shown = not self._index.droppable or packet.pts is None or packet.pts in wanted
            self._stream.codec_context.skip_frame = "DEFAULT" if shown else "NONREF"
            yield from self._stream.decode(packet)

    def _pick_in_order(self, wanted: list[int], size: tuple[int, int]) -> Iterator[np.ndarray]:
        self._container.close()
        self._open(strict=False)  # what is missing shows what a decoder without a seek shows
        picked = 0
        position = -1
        try:
            for frame in decode_in_order(self._container, self._stream, self._index.unusable):
                position += 1
                if position == wanted[picked]:
                    yield upright(self._to_rgb(frame, size), frame)
                    picked += 1
                if picked == len(wanted):
                    return
        except av.FFmpegError as error:
            raise VideoError(
                self.path,
                f"decoding fails after {position + 1} of {self._length()} ({error.strerror})",
            ) from error
        raise VideoError(
            self.path,
            f"only {position + 1} of {self._length()} can be decoded, the data is damaged",
        )

    def _length(self) -> str:
        announced = self._stream.frames
        cut = f" (its header announces {announced})" if announced > self.num_frames else ""
        return super()._length() + cut


def open_reader(
    path: str | os.PathLike | PackedVideo, *, threads: int = 1
) -> VideoReader | FrameFolder:
    """Open a video file or a folder of numbered pictures, also in packed data.

    Args:
        path: a path, which may lead into packed data ("packed/val/a.mp4"), or a packed video.
        threads: of the decoder.

    Raises:
        VideoError: it cannot be read.
        RuntimeError: an address cannot be read.
    """
    video = path if isinstance(path, PackedVideo) else Path(path)
    if video.is_dir():
        return FrameFolder(video)
    if isinstance(video, Path) and not video.exists():
        packed = find_packed(video)
        if packed is not None:
            return open_reader(packed, threads=threads)
    return VideoReader(video, threads=threads)


def probe(path: str | Path | PackedVideo) -> VideoInfo:
    """Describe a video: true frame count, size as shown, average rate, duration.

    This counts packets and decodes a single frame, for the rotation. Non-square pixels are not
    stretched. A folder of numbered pictures is a video of 25 frames a second.

    Raises:
        VideoError: the video cannot be read.
    """
    with open_reader(path) as video:
        return video.info()


def decode(
    path: str | Path, indices: Sequence[int], *, short_side: int | None = None, threads: int = 1
) -> Tensor:
    """Decode frames of a video.

    The official code decodes every video whole. Here decoding starts at the last possible frame and
    ends at the last one wanted.

    Args:
        path: a video file, or a folder of numbered pictures.
        indices: numbers of frames, in any order; a number may be repeated.
        short_side: frames with a longer shorter side are scaled down to it (swscale, bilinear).
        threads: of the decoder.

    Returns:
        uint8 (len(indices), 3, H, W), RGB, upright (a phone's display matrix is applied), channels
        last in memory.

    Raises:
        VideoError: the file cannot be read, a frame cannot be decoded, or there is no such frame.
    """
    with open_reader(path, threads=threads) as video:
        return video.frames(indices, short_side=short_side)


def decode_all(
    path: str | Path, *, short_side: int | None = None, max_frames: int = 10_000
) -> Tensor:
    """Decode a video from its start, at most `max_frames` frames (official code: 10,000).

    Returns:
        uint8 (T, 3, H, W), as `decode`.
    """
    with open_reader(path) as video:
        return video.frames(range(min(video.num_frames, max_frames)), short_side=short_side)


class _NotAsIndexed(Exception):
    """The decoded frames differ from the packets' time stamps."""


__all__ = [
    "FrameFolder",
    "VideoError",
    "VideoInfo",
    "VideoReader",
    "decode",
    "decode_all",
    "open_reader",
    "probe",
]
