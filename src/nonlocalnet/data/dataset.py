"""Videos as a torch data set: clips with labels, for training and for multi-view testing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.utils.data import Dataset

from nonlocalnet.clips import MEAN, STD, ClipSpec
from nonlocalnet.data.formats.lists import (
    VideoRecord,
    read_charades,
    read_folder,
    read_list,
    read_videos,
)
from nonlocalnet.data.sampling import (
    center_clip,
    random_clip,
    short_side_size,
    test_clips,
)
from nonlocalnet.data.seeding import Draw, Unreadable, seeded
from nonlocalnet.data.transforms import normalize
from nonlocalnet.data.video.reader import VideoError, open_reader, probe


class VideoDataset(Dataset):
    """Give clips of videos: item i is (clip, target, index of the video).

    Training: clip uint8 (3, T, h, w), a random clip of the video through `transform`. Testing:
    clip uint8 (num_clips · num_crops, 3, T, h, w), the views clip by clip and within a clip crop
    by crop; the clips are those of `test_clips`, a single one is the middle of the video
    (`center_clip`). target: int64 scalar, or with `multi_label` float32 (num_classes,) of 0 and 1.

    transform: uint8 (T, 3, H, W) -> (3, T, h, w) for training, (num_crops, 3, T, h, w) for
    testing; where it has a `largest_short_side`, larger frames are decoded at that size.

    Chance comes from torch's global generator alone, so that `torch.manual_seed` decides it and a
    DataLoader's workers and epochs differ. Asked for as a `Draw`, (index, seed), an item depends on
    nothing else: not on the worker, nor on what was drawn before.

    A video that cannot be read is, in testing, a VideoError. In training another video, drawn at
    random, takes its place: the index returned is that of the video really used (so a batch's
    replaced samples are those whose index differs from the sampler's), and `bad_indices` lists all
    that failed so far, in every worker process. Where more than the share `max_bad` of the records
    has failed, a RuntimeError names several.

    `cache` decodes all videos at once, here, into one uint8 tensor (3 · T · H · W bytes a video,
    at the short side `cache_short_side`, by default the transform's largest): for small data sets,
    so that no epoch decodes. Forked workers share it.

    Raises ValueError for labels that do not fit num_classes or the kind of target.
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
            raise ValueError("cache_short_side is of use with cache=True only")
        _check_labels(records, num_classes, multi_label)
        self.records = list(records)
        self.num_classes = num_classes
        self.clip = clip
        self.transform = transform
        self.train = train
        self.num_clips = num_clips
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
        """Map clips, wherever they are, to network input, by the transform's mean and std.

        uint8 (..., 3, T, h, w) -> float32; other types, of transforms that do it, stay.
        """
        if clips.dtype != torch.uint8:
            return clips
        transform = self.transform
        return normalize(clips, getattr(transform, "mean", MEAN), getattr(transform, "std", STD))

    def name(self, index: int) -> str:
        """Name a video as its list does."""
        return self.records[index].name

    def bad_indices(self) -> list[int]:
        """List the videos that could not be read so far, by any worker."""
        return self.unreadable.indices()

    def _training_frames(self, i: int) -> Tensor:
        # the global generator seeds a private one: index arithmetic is plain Python
        rng = random.Random(int(torch.randint(2**62, ()).item()))
        return self._frames(i, lambda n: random_clip(n, self.clip, rng))

    def _views(self, i: int) -> Tensor:
        if self.num_clips == 1:
            frames = self._frames(i, lambda n: center_clip(n, self.clip))
        else:
            frames = self._frames(
                i, lambda n: list(chain.from_iterable(test_clips(n, self.clip, self.num_clips)))
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
                size = (info.height, info.width)
                if short_side is not None and min(size) > short_side:
                    size = short_side_size(*size, short_side)
                shapes.append((info.num_frames, *size, 3))
            except VideoError as error:
                shapes.append((0, 0, 0, 3))
                self._fail_cache(i, error)
        sizes = [t * h * w * c for t, h, w, c in shapes]
        # one tensor: a thousand small ones, sent to spawned workers, would be a thousand files
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
        if self.train:  # a test item raises when it is asked for, cached or not
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


__all__ = [
    "VideoDataset",
    "VideoRecord",
    "read_charades",
    "read_folder",
    "read_list",
    "read_videos",
]
