"""Probabilities over the time of a long video, and the segments in which a class is probable."""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.transforms import TestTransform
from nonlocalnet.data.video.reader import FrameFolder, VideoError, VideoReader, open_reader
from nonlocalnet.errors import option
from nonlocalnet.evaluation.multiview import Forward
from nonlocalnet.evaluation.prediction import Video, as_path, info_of, make_unlabeled_set
from nonlocalnet.evaluation.views import Crop
from nonlocalnet.networks.registry import Network

CPU_WINDOWS, ACCELERATOR_WINDOWS = 2, 32  # in one forward pass
MAX_BYTES = 2**30  # of the frames that are kept at a time
EPSILON = 1e-6  # seconds: a frame begins at its time stamp, to rounding
DIFFERENT = 0.05  # a window that differs by a smaller share is the network's own clip
QUALITY = 80  # of JPEG pictures


@dataclass(frozen=True)
class Segment:
    """A part of a video in which a class is probable.

    Attributes:
        label: index of the class.
        start, end: seconds.
        score: mean probability of the class.
    """

    label: int
    start: float
    end: float
    score: float


@dataclass(frozen=True)
class Timeline:
    """The probability of each class at regular moments of a video.

    Attributes:
        path: the video.
        classes: names, in the order of the labels.
        duration: of the video, seconds.
        every: seconds between two moments; the first is 0.
        window: seconds of video that the network sees at each moment.
        threshold: of the smoothed probability in a segment.
        probabilities: (M, K) float32.
        pictures: JPEG files by moment, of all or of some evenly spaced ones.
        frames: number of frames of a window.
        own: seconds of the network's own clip in this video; None for segments.
        error: why the video could be read only so far; "" if it was read to its end.
    """

    path: Path | PackedVideo
    classes: Sequence[str]
    duration: float
    every: float
    window: float
    threshold: float
    probabilities: np.ndarray
    pictures: dict[int, bytes]
    frames: int
    own: float | None
    error: str = ""

    @property
    def times(self) -> list[float]:
        """The moments, seconds."""
        return [k * self.every for k in range(len(self.probabilities))]

    @cached_property
    def segments(self) -> list[Segment]:
        """The segments of all classes by `find_segments`."""
        return find_segments(
            self.probabilities, self.duration, self.every, self.window, self.threshold
        )

    @property
    def note(self) -> str:
        """A sentence if the window is longer or shorter than the network's own clip."""
        if self.own is None or abs(self.window / self.own - 1) < DIFFERENT:
            return ""
        return (
            f"the network's own clip is {self.own:.3g} s of this video; its {self.frames} frames "
            f"are spread over the window of {self.window:.3g} s instead, one every "
            f"{self.window / self.frames:.3g} s"
        )

    @property
    def rule(self) -> str:
        """What a probability and a segment is, in words."""
        return (
            f"Every {self.every:g} s, the network sees {self.frames} frames spread over the "
            f"{self.window:.3g} s around that moment. A segment of a class is where its smoothed "
            "probability (the mean of a moment and its two neighbors) is at least "
            f"{self.threshold:g}; gaps shorter than {self.window:.3g} s are joined. A moment "
            "stands for the time up to halfway to its neighbors. The score is the mean probability "
            "from start to end."
        )


def smooth(probabilities: np.ndarray) -> np.ndarray:
    """Average each moment with its two neighbors; the first and the last have one neighbor.

    Args:
        probabilities: (M, K).

    >>> smooth(np.array([[0.0], [0.6], [0.0], [0.0]])).ravel().round(3).tolist()
    [0.3, 0.2, 0.2, 0.0]
    """
    padded = np.pad(probabilities, ((1, 1), (0, 0)))
    count = np.pad(np.ones((len(probabilities), 1)), ((1, 1), (0, 0)))
    sums, counts = (x[:-2] + x[1:-1] + x[2:] for x in (padded, count))
    return sums / counts


def find_segments(
    probabilities: np.ndarray, duration: float, every: float, window: float, threshold: float
) -> list[Segment]:
    """Find the segments of each class.

    A moment belongs to a segment if its smoothed probability (`smooth`) is at least `threshold`. It
    stands for the time up to halfway to its neighbors, the first one from 0 and the last one to the
    end of the video. Segments with a gap below `window` between them are joined. The score is the
    mean probability over the moments from start to end.

    Args:
        probabilities: (M, K), at the moments 0, every, 2 · every, ...
        duration: of the video, seconds.
        every: seconds between two moments.
        window: seconds.
        threshold: from 0 to 1.

    Returns:
        The segments by start, then by label.

    >>> p = np.array([[0.9], [0.9], [0.1], [0.1], [0.1], [0.8], [0.8]])
    >>> [(s.start, s.end, round(s.score, 3)) for s in find_segments(p, 7, 1, 1.5, 0.5)]
    [(0.0, 1.5, 0.9), (4.5, 7, 0.8)]
    """
    high = smooth(probabilities) >= threshold
    last = len(probabilities) - 1
    found = []
    for label in np.flatnonzero(high.any(axis=0)).tolist():
        edges = np.flatnonzero(np.diff(high[:, label], prepend=False, append=False))
        runs = [[first, after - 1] for first, after in edges.reshape(-1, 2).tolist()]
        joined = runs[:1]
        for run in runs[1:]:
            gap = (run[0] - joined[-1][1] - 1) * every
            if gap < window:
                joined[-1][1] = run[1]
            else:
                joined.append(run)
        for first, final in joined:
            start = (first - 0.5) * every if first else 0.0
            end = (final + 0.5) * every if final < last else duration
            score = float(probabilities[first : final + 1, label].mean())
            found.append(Segment(label, start, end, score))
    return sorted(found, key=lambda segment: (segment.start, segment.label))


def window_frames(
    times: Sequence[float], duration: float, moment: float, window: float, clip: ClipSpec
) -> list[int]:
    """Choose the frames of the window around a moment.

    The window of W seconds starts at s = t - W / 2, moved inside the video. Frame i of n is the one
    that is shown at s + i · W / n; of a clip of segments, in the middle of each, at
    s + (i + 1/2) · W / n. Where W is the clip's own length, rate · n frames, these are the frames
    of `data.sampling`. A video that is shorter than the window is repeated.

    Args:
        times: of each frame of the video, seconds.
        duration: of the video, seconds.
        moment: t, seconds.
        window: W, seconds.
        clip: gives the number of frames, n; its rate is replaced.

    >>> window_frames([i / 25 for i in range(100)], 4.0, 2.0, 0.64, ClipSpec(4, 4))
    [42, 46, 50, 54]
    """
    start = min(max(moment - window / 2, 0.0), max(duration - window, 0.0))
    offset = 0.5 if clip.rate is None else 0.0
    shown = (start + (i + offset) * window / clip.frames for i in range(clip.frames))
    if window > duration:
        shown = (time % duration if duration else 0.0 for time in shown)
    return [_frame_at(times, time) for time in shown]


def _frame_at(times: Sequence[float], time: float) -> int:
    return max(bisect_right(times, time + EPSILON) - 1, 0)


@torch.no_grad()
def compute_timeline(
    model: Network,
    path: Video,
    *,
    every: float = 1.0,
    window: float | None = None,
    threshold: float = 0.5,
    num_crops: int = 1,
    side: int | None = None,
    crop: Crop | None = None,
    pictures: int = 0,
    threads: int = 1,
    on_moment: Callable[[int, int], None] = lambda done, total: None,
) -> Timeline:
    """Compute the probabilities of all classes every few seconds of a long video.

    The video is decoded once, from start to end. Only frames of the windows that are not computed
    yet are kept, so that the memory does not depend on the length of the video, apart from its
    time stamps and the result.

    Args:
        model: a network from `nl.load`.
        path: the video.
        every: seconds between two moments.
        window: seconds that the network sees at each (`window_frames`); by default the length of
            its own clip at the frame rate of this video.
        threshold: for segments.
        num_crops, side, crop: the crops of each window, as in `evaluation.views.make_test_set`;
            probabilities are averaged over them.
        pictures: keep at most so many pictures of evenly spaced moments.
        threads: of the decoder.
        on_moment: called with the number of moments that are computed, and that of all.

    Returns:
        The timeline. If the video cannot be read to its end, it ends there and has an `error`.

    Raises:
        ValueError: a value out of range, or no window given to a network of segments.
        VideoError: the video cannot be opened, or not even its first window be read.
    """
    info = info_of(model)
    if not (0 < every < math.inf and (window is None or 0 < window < math.inf)):
        raise ValueError(f"every and window must be above 0 seconds; got {every} and {window}")
    views = {"num_clips": 1, "num_crops": num_crops, "side": side, "crop": crop}
    dataset = make_unlabeled_set([as_path(path)], info, **views)
    clip, transform = dataset.clip, cast("TestTransform", dataset.transform)
    forward = Forward(model, dataset.normalize, info.multi_label, info.views.average)
    at_once = CPU_WINDOWS if forward.device.type == "cpu" else ACCELERATOR_WINDOWS
    rows: list[Tensor] = []
    shots: dict[int, bytes] = {}
    error = ""
    was_training = model.training
    model.eval()
    try:
        with open_reader(path, threads=threads) as reader:
            times = reader.times()
            duration = max(reader.info().duration, times[-1])
            own = None if clip.span is None else clip.span * duration / len(times)
            window = window or own
            if window is None:
                raise ValueError(
                    f"a clip of this network is {clip.frames} segments of a whole video: say how "
                    f"many seconds it is to see, {option('window', 2.56)} for one"
                )
            count = max(math.ceil(duration / every - EPSILON), 1)
            shoot = range(0, count, -(-count // pictures)) if pictures else ()

            def needs(k: int) -> list[int]:
                seen = window_frames(times, duration, k * every, window, clip)
                return [*seen, _frame_at(times, k * every)] if k in shoot else seen

            waiting: list[Tensor] = []
            try:
                for k, images in enumerate(_windows(reader, needs, count, transform.short_side)):
                    frames = torch.from_numpy(np.stack(images[: clip.frames]))
                    waiting.append(transform(frames.permute(0, 3, 1, 2)))
                    if k in shoot:
                        shots[k] = _jpeg(images[-1])
                    if len(waiting) == at_once:
                        rows += _compute(forward, waiting)
                        on_moment(len(rows), count)
            except VideoError as problem:
                error = problem.reason
            rows += _compute(forward, waiting)
            on_moment(len(rows), count)
            if not rows:
                raise VideoError(path, error)
    finally:
        model.train(was_training)
    return Timeline(
        path=as_path(path),
        classes=[info.class_name(k) for k in range(dataset.num_classes)],
        duration=min(duration, len(rows) * every) if error else duration,
        every=every,
        window=window,
        threshold=threshold,
        probabilities=torch.stack(rows).numpy(),
        pictures=shots,
        frames=clip.frames,
        own=own,
        error=error,
    )


def _compute(forward: Forward, waiting: list[Tensor]) -> list[Tensor]:
    """Compute the probabilities (K,) of windows (crops, 3, T, h, w), and empty the list."""
    if not waiting:
        return []
    scores = forward(torch.cat(waiting)).split([len(views) for views in waiting])
    waiting.clear()
    return [forward.of_video(part) for part in scores]


def _windows(
    reader: VideoReader | FrameFolder,
    needs: Callable[[int], list[int]],
    count: int,
    short_side: int,
) -> Iterator[list[np.ndarray]]:
    """Decode the frames of all windows once, and yield those of each as soon as they are there.

    Args:
        reader: of the video.
        needs: the frames of a window; both ends of later windows are not before those of earlier
            ones.
        count: number of windows.
        short_side: of the frames.
    """
    wanted = {i for k in range(count) for i in needs(k)}
    kept: dict[int, np.ndarray] = {}
    k, need = 0, needs(0)
    for i, image in reader.stream(wanted, short_side=short_side):
        kept[i] = image
        if image.shape != next(iter(kept.values())).shape:
            raise VideoError(reader.path, "some of its frames are upright and some on their side")
        if len(kept) * image.nbytes > MAX_BYTES:
            raise ValueError(
                f"the frames of a window take more than {MAX_BYTES >> 30} GiB: choose a shorter "
                f"{option('window')}, a larger {option('every')}, or a smaller {option('side')}"
            )
        while max(need) <= i:
            yield [kept[j] for j in need]
            k += 1
            if k == count:
                return
            need = needs(k)
        first = min(need)
        while kept and (oldest := next(iter(kept))) < first:
            del kept[oldest]


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
