"""What readers of video files and of folders of pictures share: frames by number, as one tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.sampling import limit_short_side
from nonlocalnet.data.video.open import VideoError, VideoInfo

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 4 * 2**30  # of frames read at a time: 16 seconds of full HD

Fit = Callable[[int, int], tuple[int, int]]  # height and width -> those of the result


class FrameReader(ABC):
    """Give the frames of an open video by their numbers."""

    _kind = "video"  # for messages

    def __init__(self, path: str | Path | PackedVideo) -> None:
        self.path = Path(path) if isinstance(path, str) else path
        self._reformatter = VideoReformatter()  # one for all frames: it keeps its scaler's tables

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Release the file and the decoders; closing twice does no harm."""

    @property
    @abstractmethod
    def num_frames(self) -> int:
        """The number of frames that can be asked for."""

    @abstractmethod
    def info(self) -> VideoInfo:
        """Describe the video; this decodes one frame."""

    def frames(self, indices: Sequence[int], *, short_side: int | None = None) -> Tensor:
        """Decode frames: see `nonlocalnet.data.video.reader.decode`."""
        wanted = self._check(indices)

        def fit(height: int, width: int) -> tuple[int, int]:
            height, width = limit_short_side(height, width, short_side)
            if (needed := 3 * len(indices) * height * width) > MAX_BYTES:
                raise VideoError(
                    self.path,
                    f"{len(indices)} frames of {width} x {height} pixels take "
                    f"{needed / 2**30:.0f} GiB; at most {MAX_BYTES >> 30} GiB are read at a time: "
                    "ask for fewer frames, or smaller ones",
                )
            return height, width

        picked = list(self._pick(wanted, fit))
        if len({image.shape for image in picked}) > 1:
            raise VideoError(self.path, "some of its frames are upright and some on their side")
        import torch  # checking and resizing a data set do without

        frames = torch.from_numpy(np.stack(picked)).permute(0, 3, 1, 2)
        if list(indices) == wanted:
            return frames
        place = {i: k for k, i in enumerate(wanted)}
        return frames[[place[i] for i in indices]]

    def stream(
        self, indices: Iterable[int], *, short_side: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Decode frames in ascending order, each once, and yield them one by one.

        Args:
            indices: numbers of frames, in any order.
            short_side: as in `frames`.

        Yields:
            The number of a frame, and the frame: uint8 (h, w, 3), RGB.

        Raises:
            VideoError: as `frames`.
        """
        wanted = self._check(indices)

        def fit(height: int, width: int) -> tuple[int, int]:
            return limit_short_side(height, width, short_side)

        return zip(wanted, self._pick(wanted, fit), strict=True)

    @abstractmethod
    def times(self) -> list[float]:
        """Give the time of each frame, in seconds from the first; a frame lasts until the next."""

    @abstractmethod
    def _pick(self, wanted: list[int], fit: Fit) -> Iterator[np.ndarray]:
        """Decode frames in ascending order: uint8 (h, w, 3) each."""

    def _check(self, indices: Iterable[int]) -> list[int]:
        """Sort the numbers of frames, and check that there are such frames."""
        wanted = sorted(set(indices))
        if not wanted:
            raise ValueError("indices is empty: name at least one frame")
        if wanted[0] < 0 or wanted[-1] >= self.num_frames:
            worst = wanted[0] if wanted[0] < 0 else wanted[-1]
            what = f"frame {worst} is out of range, the {self._kind} has {self._length()}"
            raise VideoError(self.path, what)
        return wanted

    def _length(self) -> str:
        return f"{self.num_frames} frame{'s' if self.num_frames > 1 else ''}"

    def _to_rgb(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        rgb = self._reformatter.reformat(
            frame, size[1], size[0], "rgb24", interpolation="BILINEAR", threads=1
        )
        return rgb.to_ndarray()
