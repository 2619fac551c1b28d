"""Classify a video while it arrives: rolling clips, or a result for every frame."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from nonlocalnet.blocks import NonLocalBlock
from nonlocalnet.blocks.streaming import Stream
from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.transforms import TestTransform
from nonlocalnet.data.video.live import LiveFrame, LiveReader
from nonlocalnet.data.video.source import Source
from nonlocalnet.errors import option
from nonlocalnet.evaluation.multiview import Forward
from nonlocalnet.evaluation.prediction import Classes, best_classes, info_of, make_unlabeled_set
from nonlocalnet.evaluation.timeline import EPSILON, MAX_BYTES, window_frames
from nonlocalnet.evaluation.views import Crop
from nonlocalnet.networks.registry import Network
from nonlocalnet.networks.video_resnet import VideoResNet
from nonlocalnet.runtime.handover import Handover

EVERY = 1.0  # seconds between two rolling clips
FRAMES_WAITING = 8  # frames that may wait for the network


@dataclass(frozen=True)
class Prediction:
    """The most probable classes at a moment of a stream.

    Attributes:
        wall: when they were computed, seconds since 1970.
        time: the newest frame that they depend on, seconds since the first frame of the stream.
        latency: seconds from the arrival of that frame to the result.
        classes: (class, probability) by descending probability.
        dropped_frames: frames so far that were not computed, since decoding or the network is
            slower than the stream.
        dropped_clips: rolling clips so far that were not computed.
        damaged_frames: frames so far that could not be decoded.
        losses: connections so far that were lost.
    """

    wall: float
    time: float
    latency: float
    classes: Classes
    dropped_frames: int
    dropped_clips: int
    damaged_frames: int
    losses: int


class RollingClips:
    """Choose the frames of a clip every few seconds.

    A clip has n frames, the newest frame and those that were shown every W / n before it. The next
    clip ends `every` seconds later. If the network has not begun with a clip when the next one is
    complete, it is dropped.

    Args:
        clip: gives n; its rate is replaced.
        every: seconds between the ends of two clips.
        window: W, seconds; None is the length of the clip in the first frames that arrive, rate · n
            frames.

    >>> clips = RollingClips(ClipSpec(2, 3), every=0.5)
    >>> found = [clips.add(LiveFrame(i / 10, 0, np.array(i), part=0)) for i in range(18)]
    >>> [[int(frame.image) for frame in clip] for clip in found if clip]
    [[2, 5], [7, 10], [12, 15]]
    """

    most = 1

    def __init__(self, clip: ClipSpec, every: float, window: float | None = None) -> None:
        self.clip, self.every, self.window = clip, every, window
        self._kept: deque[LiveFrame] = deque()
        self._next = -math.inf  # the end of the next clip

    def add(self, frame: LiveFrame) -> list[LiveFrame] | None:
        """Add a frame; return the clip that it completes."""
        if self._kept and self._kept[-1].part != frame.part:
            self._kept.clear()
            self._next = -math.inf
        self._kept.append(frame)
        if len(self._kept) * frame.image.nbytes > MAX_BYTES:
            raise ValueError(
                f"the frames of a window take more than {MAX_BYTES >> 30} GiB: choose a shorter "
                f"{option('window')} or a smaller {option('side')}"
            )
        if self.window is None:
            span = cast("int", self.clip.span)
            if len(self._kept) < span:
                return None
            self.window = (frame.time - self._kept[0].time) * span / max(span - 1, 1)
        n = self.clip.frames
        span = (n - 1) * self.window / n  # seconds from the first frame of a clip to the last one
        while len(self._kept) > 1 and self._kept[1].time <= frame.time - span:
            self._kept.popleft()
        first = self._kept[0].time
        if frame.time - first < span - EPSILON or frame.time < self._next - EPSILON:
            return None
        times = [one.time - first for one in self._kept]
        end = times[-1] + self.window / n
        chosen = [self._kept[i] for i in window_frames(times, end, end, self.window, self.clip)]
        begin = frame.time if math.isinf(self._next) else self._next
        passed = math.floor((frame.time - begin + EPSILON) / self.every)
        self._next = begin + self.every * (passed + 1)
        return chosen

    def active(self, work: list[LiveFrame]) -> AbstractContextManager:
        """Return the context in which the network computes a clip."""
        return contextlib.nullcontext()


class EveryFrame:
    """Give every frame to a network of frame-causal blocks, which computes it alone.

    The network was trained on frames `rate` apart. Frame i is given to stream i mod rate, so that
    each stream sees that distance and the clip's own number of frames.

    Args:
        model: the network.
        clip: frames and rate.

    Raises:
        ValueError: the network computes frames together.
    """

    most = FRAMES_WAITING

    def __init__(self, model: Network, clip: ClipSpec) -> None:
        self._streams = [Stream(model, window=clip.frames) for _ in range(clip.rate or 1)]
        self._count, self._part = 0, 0

    def add(self, frame: LiveFrame) -> list[LiveFrame]:
        """Return the frame."""
        return [frame]

    def active(self, work: list[LiveFrame]) -> AbstractContextManager:
        """Return the context in which the network computes a frame."""
        if work[0].part != self._part:
            self._part = work[0].part
            for stream in self._streams:
                stream.reset()
        self._count += 1
        return self._streams[self._count % len(self._streams)]


@torch.no_grad()
def watch(
    model: Network,
    source: str | Source,
    *,
    every: float | None = None,
    window: float | None = None,
    side: int | None = None,
    crop: Crop | None = None,
    top: int = 5,
    idle: float = 10.0,
    retries: int = 10,
    duration: float = math.inf,
    tell: Callable[[str], None] = lambda text: None,
) -> Generator[Prediction]:
    """Classify a video while it arrives, and yield the classes of each moment.

    A C2D network with frame-causal blocks gives a result for every frame (`EveryFrame`), others for
    rolling clips (`RollingClips`). Close the generator (`contextlib.closing`) to stop early.

    Args:
        model: a network from `nl.load`.
        source: a camera ("/dev/video0"), an address, a growing file, or "-" for standard input.
        every: seconds between two rolling clips; None gives a result for every frame if the network
            can, or else a clip every second.
        window: seconds that a rolling clip covers; by default the length of the network's own clip
            in this stream.
        side, crop: of the frames, as in `evaluation.views.make_test_set`.
        top: number of classes.
        idle, retries: as in `LiveReader`.
        duration: seconds after which to stop.
        tell: called, also from other threads, with sentences about what is computed and about
            losses.

    Raises:
        ValueError: a value out of range, or no window given to a network of segments.
        VideoError: the source cannot be read, or is lost for good.
    """
    info = info_of(model)
    source = Source.parse(source) if isinstance(source, str) else source
    views = {"num_clips": 1, "num_crops": 1, "side": side, "crop": crop}
    dataset = make_unlabeled_set([Path(source.name)], info, **views)
    transform = cast("TestTransform", dataset.transform)
    forward = Forward(model, dataset.normalize, info.multi_label, info.views.average)
    was_training = model.training
    model.eval()
    mode = choose_mode(model, dataset.clip, every, window, tell)
    end = time.monotonic() + duration
    reader = LiveReader(
        source, short_side=transform.short_side, idle=idle, retries=retries, tell=tell
    )
    try:
        with _Collector(reader, mode) as collector:
            while (left := end - time.monotonic()) > 0:
                try:
                    work = collector.work.get(None if math.isinf(left) else left)
                except EOFError:
                    return
                if work is None:
                    return
                frames = torch.from_numpy(np.stack([frame.image for frame in work]))
                with mode.active(work):
                    scores = forward(transform(frames.permute(0, 3, 1, 2)))
                classes = best_classes(forward.of_video(scores), info, top)
                counts = reader.counts
                rolling = isinstance(mode, RollingClips)
                yield Prediction(
                    wall=time.time(),
                    time=work[-1].time,
                    latency=time.monotonic() - work[-1].arrival,
                    classes=classes,
                    dropped_frames=counts.dropped + (0 if rolling else collector.dropped),
                    dropped_clips=collector.dropped if rolling else 0,
                    damaged_frames=counts.damaged,
                    losses=counts.losses,
                )
    finally:
        model.train(was_training)


def choose_mode(
    model: Network,
    clip: ClipSpec,
    every: float | None,
    window: float | None,
    tell: Callable[[str], None] = lambda text: None,
) -> RollingClips | EveryFrame:
    """Choose how a network computes a stream, and say so: see `watch`.

    Raises:
        ValueError: a value out of range, or no window given to a network of segments.
    """
    if not all(value is None or 0 < value < math.inf for value in (every, window)):
        raise ValueError(f"every and window must be above 0 seconds; got {every} and {window}")
    why = ""
    if every is None and window is None and isinstance(model, VideoResNet):
        try:
            mode = EveryFrame(model, clip)
        except ValueError as error:
            blocks = (one for one in model.modules() if isinstance(one, NonLocalBlock))
            if any(block.extent == "causal" for block in blocks):
                why = f"; every frame has no result of its own, since {error}"
        else:
            tell(f"a result for every frame, from the last {clip.span or clip.frames} frames")
            return mode
    if window is None and clip.rate is None:
        raise ValueError(
            f"a clip of this network is {clip.frames} segments of a whole video: say how many "
            f"seconds it is to see, {option('window', 2.56)} for one"
        )
    every = EVERY if every is None else every
    length = f"{clip.span} frames" if window is None else f"{window:g} s"
    tell(f"a result every {every:g} s, from {clip.frames} frames of the last {length}{why}")
    return RollingClips(clip, every, window)


class _Collector:
    """Decode in a thread, and keep what the network is to compute next."""

    def __init__(self, reader: LiveReader, mode: RollingClips | EveryFrame) -> None:
        self.reader, self.mode = reader, mode
        self.work: Handover[list[LiveFrame]] = Handover()
        self.dropped = 0
        self._thread = threading.Thread(target=self._collect, name="decode", daemon=True)

    def __enter__(self) -> _Collector:
        self.reader.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.reader.__exit__(None, None, None)
        self._thread.join(timeout=5)

    def _collect(self) -> None:
        try:
            for frame in self.reader.frames():
                work = self.mode.add(frame)
                if work is not None:
                    self.dropped += self.work.put(work, most=self.mode.most)
        except BaseException as error:
            self.work.end(error)
        else:
            self.work.end()
