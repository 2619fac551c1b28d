"""Frames of a video file by number, with PyAV: only what a clip needs, and always the right ones.

Frame i is the i-th frame that decoding the whole file in order would give. Frames that restart
decoding are sought where the file's time stamps allow it; what comes out is checked against the
stamps, and a file that does not keep to its own is decoded in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Set
from itertools import islice
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import torch
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter
from torch import Tensor

from nonlocalnet.data.sampling import short_side_size
from nonlocalnet.data.video.frame_folder import FrameFolder
from nonlocalnet.data.video.frame_index import index_frames, whole_packets
from nonlocalnet.data.video.open import VideoError, VideoInfo, check_memory, open_video

FEW_FRAMES = 8  # decoding these on is cheaper than a seek


class VideoReader:
    """Open a video once, for its length and its frames.

    One thread by default: the workers of a DataLoader are the parallelism. Raises VideoError,
    here and in `frames`, for whatever is wrong with the file.
    """

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        self.path, self._threads = Path(path), threads
        self._reformatter = VideoReformatter()
        self._container, self._stream = open_video(self.path, threads=threads)
        self._closed = False
        # a stream's size may change midway, and its codec's context with it
        context = self._stream.codec_context
        self._height, self._width = context.height, context.width
        try:
            self._index = index_frames(self._container, self._stream)
            if self._index.num_frames == 0:
                raise VideoError(self.path, "the video stream holds no frames")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; harmless where it is closed already."""
        self._closed = True
        self._container.close()

    @property
    def num_frames(self) -> int:
        """The number of frames, counted from the packets."""
        return self._index.num_frames

    def info(self) -> VideoInfo:
        """Describe the video; decodes its first frame, which alone tells the rotation."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        duration = self._index.duration or (self.num_frames / float(rate) if rate else 0.0)
        fps = self.num_frames / duration if duration else 0.0
        height, width = self.frames([0]).shape[2:]
        return VideoInfo(self.num_frames, height, width, fps, duration)

    def frames(self, indices: Sequence[int], *, short_side: int | None = None) -> Tensor:
        """Decode the frames `indices`: see `decode`."""
        if self._closed:  # FFmpeg would crash
            raise ValueError(f"{self.path} is closed: ask for frames inside the with block")
        wanted = sorted(set(indices))
        if not wanted:
            raise ValueError("indices is empty: name at least one frame")
        if wanted[0] < 0 or wanted[-1] >= self.num_frames:
            worst = wanted[0] if wanted[0] < 0 else wanted[-1]
            raise VideoError(
                self.path, f"frame {worst} is out of range, the video has {self._length()}"
            )
        size = self._size(short_side)
        check_memory(self.path, len(indices), size)
        try:
            picked = self._pick_by_stamp(wanted, size)
        except (_NotAsIndexed, av.FFmpegError):
            picked = self._pick_in_order(wanted, size)
        frames = torch.from_numpy(np.stack(picked)).permute(0, 3, 1, 2)
        if list(indices) == wanted:
            return frames
        place = {i: k for k, i in enumerate(wanted)}
        return frames[[place[i] for i in indices]]

    def _pick_by_stamp(self, wanted: list[int], size: tuple[int, int]) -> list[np.ndarray]:
        index = self._index
        if not index.stamps:
            raise _NotAsIndexed
        number = {stamp: i for i, stamp in enumerate(index.stamps)}
        stamps = {index.stamps[i] for i in wanted}
        picked: list[np.ndarray] = []
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
                if shown < first:  # it may lean on frames that were skipped
                    continue
                # the decoder knows better than a flag, and what it repairs depends on the start
                restarts = position >= first or (shown == first and frame.key_frame)
                if not restarts or frame.is_corrupt:
                    raise _NotAsIndexed
                position = shown
            if position != i or frame is None:
                raise _NotAsIndexed
            picked.append(self._to_rgb(frame, size))
        return picked

    def _decode_from(self, key: int, wanted: Set[int]) -> Iterator[av.VideoFrame]:
        stamp = self._index.stamps[key]
        self._container.seek(stamp, stream=self._stream)
        sought = False
        for packet in whole_packets(self._container, self._stream):
            at_key = packet.is_keyframe and packet.pts is not None and packet.pts <= stamp
            if not (sought or at_key):
                raise _NotAsIndexed
            sought = True
            # a frame that no other refers to is decoded for its own sake alone
            shown = not self._index.droppable or packet.pts is None or packet.pts in wanted
            self._stream.codec_context.skip_frame = "DEFAULT" if shown else "NONREF"
            yield from self._stream.decode(packet)

    def _pick_in_order(self, wanted: list[int], size: tuple[int, int]) -> list[np.ndarray]:
        self._container.close()
        self._container, self._stream = open_video(self.path, threads=self._threads)
        picked: list[np.ndarray] = []
        position = -1
        try:
            packets = whole_packets(self._container, self._stream)
            for packet in islice(packets, self._index.unusable, None):
                for frame in self._stream.decode(packet):
                    position += 1
                    if position == wanted[len(picked)]:
                        picked.append(self._to_rgb(frame, size))
                    if len(picked) == len(wanted):
                        return picked
        except av.FFmpegError as error:
            raise VideoError(
                self.path,
                f"decoding fails after {position + 1} of {self._length()} ({error.strerror})",
            ) from error
        raise VideoError(
            self.path,
            f"only {position + 1} of {self._length()} can be decoded, the data is damaged",
        )

    def _to_rgb(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        height, width = size
        # one reformatter for all frames: it keeps the tables of its scaler
        rgb = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation="BILINEAR", threads=1
        )
        return upright(rgb.to_ndarray(), frame)

    def _size(self, short_side: int | None) -> tuple[int, int]:
        height, width = self._height, self._width
        if short_side is None or min(height, width) <= short_side:
            return height, width
        return short_side_size(height, width, short_side)

    def _length(self) -> str:
        count, announced = self.num_frames, self._stream.frames
        cut = f" (its header announces {announced})" if announced > count else ""
        return f"{count} frame{'s' if count > 1 else ''}{cut}"


def open_reader(path: str | os.PathLike, *, threads: int = 1) -> VideoReader | FrameFolder:
    """Open a video file, or a folder of numbered pictures, for its length and its frames."""
    if Path(path).is_dir():
        return FrameFolder(Path(path))
    return VideoReader(Path(path), threads=threads)


def probe(path: str | Path) -> VideoInfo:
    """Describe a video: true frame count, size as shown, average rate, duration.

    Counts packets and decodes a single frame, for the rotation. Non-square pixels are not
    stretched. A folder of numbered pictures counts as a video of 25 frames a second. Raises
    VideoError for a file that cannot be read.
    """
    with open_reader(path) as video:
        return video.info()


def decode(
    path: str | Path, indices: Sequence[int], *, short_side: int | None = None, threads: int = 1
) -> Tensor:
    """Decode chosen frames, in the order given: any order, repeats allowed.

    -> uint8 (len(indices), 3, H, W), RGB, upright (a phone's display matrix is applied), channels
    last in memory. Frames whose shorter side exceeds `short_side` are scaled down to it in the
    decoder (swscale, bilinear); smaller ones stay as they are. The official code decodes every
    video whole; here only the stretches between a frame that restarts decoding and the last frame
    wanted.

    Raises VideoError for a file that cannot be read, a frame that cannot be decoded, or an index
    that the video does not have.
    """
    with open_reader(path, threads=threads) as video:
        return video.frames(indices, short_side=short_side)


def decode_all(
    path: str | Path, *, short_side: int | None = None, max_frames: int = 10_000
) -> Tensor:
    """Decode a video from its start, at most `max_frames` frames (official code: 10,000).

    -> uint8 (T, 3, H, W) as from `decode`.
    """
    with open_reader(path) as video:
        return video.frames(range(min(video.num_frames, max_frames)), short_side=short_side)


class _NotAsIndexed(Exception):
    """The decoder's frames do not follow the packets' time stamps."""


def upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Turn a picture (H, W, C) of a frame as the frame's display matrix says."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return image
    # a pixel (x, y) is shown at (a x + c y, b x + d y): libavutil/display.h
    a, b, c, d = matrix
    if abs(b) > abs(a):
        image, right, down = image.swapaxes(0, 1), c, b
    else:
        right, down = a, d
    return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def turned(frame: av.VideoFrame) -> bool | None:
    """Whether height and width change places when a frame is shown; None: it is shown as it is."""
    matrix = _display_matrix(frame)
    return None if matrix is None else bool(abs(matrix[1]) > abs(matrix[0]))


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    side_data = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # ty: ignore[no-matching-overload]
    return None if side_data is None else np.frombuffer(side_data, np.int32)[[0, 1, 3, 4]]


__all__ = ["VideoError", "VideoInfo", "VideoReader", "decode", "decode_all", "open_reader", "probe"]
