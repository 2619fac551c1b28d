"""A torch data set of clips with labels, for training and for multi-view testing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.utils.data import Dataset

from nonlocalnet.clips import MEAN, STD, ClipSpec
from nonlocalnet.data.datasets import VideoRecord
from nonlocalnet.data.sampling import (
    center_clip,
    limit_short_side,
    random_clip,
    test_clips,
)
from nonlocalnet.data.seeding import Draw, Unreadable, seeded
from nonlocalnet.data.transforms import normalize
from nonlocalnet.data.video.reader import VideoError, open_reader, probe


class VideoDataset(Dataset):
    """Give clips of videos: item i is (clip, target, index of the video).

    In training, clip is uint8 (3, T, h, w), a random clip of the video. In testing, it is uint8
    (num_clips · num_crops, 3, T, h, w): the views clip by clip, and crop by crop within a clip.
    target is an int64 scalar, or with `multi_label` float32 (num_classes,) of 0 and 1.

    Random choices come from torch's global generator only: `torch.manual_seed` decides them, and
    the workers and epochs of a DataLoader differ. An item that is asked for as a `Draw`, (index,
    seed), depends on nothing else.

    In testing, an unreadable video raises a VideoError. In training, a random other video replaces
    it: the index returned is that of the video used, so the replaced samples of a batch are those
    whose index is not the sampler's. `bad_indices` lists all that failed, in any worker process.

    Args:
        records: the videos.
        num_classes: the number of classes.
        clip: frames and rate of a clip.
        transform: uint8 (T, 3, H, W) -> (3, T, h, w) for training, (num_crops, 3, T, h, w) for
            testing; if it has a `largest_short_side`, larger frames are decoded at that size.
        train: whether this is for training.
        num_clips: clips of a video in testing, those of `test_clips`; 1 is the middle of the video
            (`center_clip`).
        rule: by whose code the clips of a test are placed, as in `test_clips`.
        multi_label: videos may have several labels or none.
        max_bad: the largest share of unreadable videos in training; above it, a RuntimeError names
            several.
        cache: decode all videos now, into one uint8 tensor (3 · T · H · W bytes a video) that
            forked workers share: for small data sets.
        cache_short_side: the short side of the cached frames; by default the transform's largest.

    Raises:
        ValueError: labels do not fit num_classes or the kind of target, or options exclude each
            other.
    """

    def __init__(
        self,
        records: Sequence[VideoRecord],
        num_classes: int,
        clip: ClipSpec,
        transform: Callable[[Tensor], Tensor],
        *,
        train: bool,
        num_clips: int = 1,
        rule: str = "official",
        multi_label: bool = False,
        max_bad: float = 0.1,
        cache: bool = False,
        cache_short_side: int | None = None,
    ) -> None:
        if train and num_clips != 1:
            raise ValueError(f"training takes one clip a video, got num_clips {num_clips}")
        if num_clips < 1:
            raise ValueError(f"num_clips must be at least 1, got {num_clips}")
        if not records:
            raise ValueError("records is empty: name at least one video")
        if cache_short_side is not None and not cache:
            raise ValueError("cache_short_side needs cache=True")
        _check_labels(records, num_classes, multi_label)
        self.records = list(records)
        self.num_classes = num_classes
        self.clip = clip
        self.transform = transform
        self.train = train
        self.num_clips = num_clips
        self.rule = rule
        self.multi_label = multi_label
        self.unreadable = Unreadable([str(r.path) for r in self.records], "videos", max_bad)
        self._short_side = getattr(transform, "largest_short_side", None)
        self._cache: list[Tensor | None] | None = None
        if cache:
            self._fill_cache(cache_short_side or self._short_side)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, Tensor, int]:
        if isinstance(index, Draw):
            with seeded(index.seed):
                return self[index.item]
        i = index
        if not self.train:
            return self._views(i), self._target(i), i
        while True:
            try:
                return self.transform(self._training_frames(i)), self._target(i), i
            except VideoError as error:
                self.unreadable.add(i, error)
                i = self.unreadable.replacement()

    def normalize(self, clips: Tensor) -> Tensor:
        """Normalize clips, on any device, with the transform's mean and std.

        uint8 (..., 3, T, h, w) -> float32; clips that are not uint8 are returned as they are.
        """
        if clips.dtype != torch.uint8:
            return clips
        transform = self.transform
        return normalize(clips, getattr(transform, "mean", MEAN), getattr(transform, "std", STD))

    def name(self, index: int) -> str:
        """Name a video as the data set writes it."""
        return self.records[index].name

    def bad_indices(self) -> list[int]:
        """List the unreadable videos that any worker has found so far."""
        return self.unreadable.indices()

    def _training_frames(self, i: int) -> Tensor:
        # index arithmetic is plain Python: its generator is seeded by the global one
        rng = random.Random(int(torch.randint(2**62, ()).item()))
        return self._frames(i, lambda n: random_clip(n, self.clip, rng))

    def _views(self, i: int) -> Tensor:
        if self.num_clips == 1:
            frames = self._frames(i, lambda n: center_clip(n, self.clip))
        else:
            frames = self._frames(
                i,
                lambda n: [*chain(*test_clips(n, self.clip, self.num_clips, self.rule))],
            )
        return torch.cat([self.transform(clip) for clip in frames.split(self.clip.frames)])

    def _frames(self, i: int, choose: Callable[[int], list[int]]) -> Tensor:
        path = self.records[i].path
        if self._cache is not None:
            video = self._cache[i]
            if video is None:
                raise VideoError(path, "could not be decoded when the cache was filled")
            return video[choose(len(video))]
        with open_reader(path) as reader:
            return reader.frames(choose(reader.num_frames), short_side=self._short_side)

    def _target(self, i: int) -> Tensor:
        labels = self.records[i].labels
        if not self.multi_label:
            return torch.tensor(labels[0])
        target = torch.zeros(self.num_classes)
        target[list(labels)] = 1
        return target

    def _fill_cache(self, short_side: int | None) -> None:
        shapes: list[tuple[int, ...]] = []
        for i, record in enumerate(self.records):
            try:
                info = probe(record.path)
                size = limit_short_side(info.height, info.width, short_side)
                shapes.append((info.num_frames, *size, 3))
            except VideoError as error:
                shapes.append((0, 0, 0, 3))
                self._fail_cache(i, error)
        sizes = [t * h * w * c for t, h, w, c in shapes]
        # one tensor: each one that is sent to spawned workers holds a file open
        memory = torch.empty(sum(sizes), dtype=torch.uint8)
        self._cache = []
        for i, part in enumerate(memory.split(sizes)):
            video = part.view(shapes[i]).permute(0, 3, 1, 2) if sizes[i] else None
            try:
                if video is not None:
                    with open_reader(self.records[i].path) as reader:
                        video.copy_(reader.frames(range(len(video)), short_side=short_side))
            except VideoError as error:
                video = None
                self._fail_cache(i, error)
            self._cache.append(video)

    def _fail_cache(self, i: int, error: VideoError) -> None:
        if self.train:  # a test item raises when it is asked for
            self.unreadable.add(i, error)


def _check_labels(records: Sequence[VideoRecord], num_classes: int, multi_label: bool) -> None:
    for record in records:
        if not multi_label and len(record.labels) != 1:
            raise ValueError(
                f"{record.name} has {len(record.labels)} labels, one is needed: "
                f"pass multi_label=True for videos with several or none"
            )
        wrong = [label for label in record.labels if not 0 <= label < num_classes]
        if wrong:
            raise ValueError(
                f"{record.name} has label {wrong[0]}, allowed are 0 to {num_classes - 1}"
            )
