"""Choose the views of a test: clips and crops of each video."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import VideoRecord
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.transforms import TestTransform

SIZED = 1000  # largest number of videos whose sizes are read
Crop = int | Literal["whole"]


def identify_videos(records: Sequence[VideoRecord]) -> str:
    """Hash file names, labels and sizes in bytes of videos, regardless of order and folder.

    Weights record with it what they were trained and selected on, so that a test can compare. Of
    more than `SIZED` videos, only the sizes of as many are read, evenly spread: file servers are
    slow.

    >>> from pathlib import Path
    >>> one, two = (VideoRecord(Path(f"{p}/a.mp4"), (3,), f"{p}/a.mp4") for p in ("x", "y"))
    >>> identify_videos([one]) == identify_videos([two])
    True
    """
    known = sorted(records, key=lambda record: (record.path.stem, record.labels))
    every = -(-len(known) // SIZED) or 1
    lines = [
        f"{record.path.stem} {record.labels} {_bytes(record.path) if i % every == 0 else ''}"
        for i, record in enumerate(known)
    ]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _bytes(path: Path | PackedVideo) -> int:
    if isinstance(path, PackedVideo):
        return path.length if path.is_file() else 0
    return path.stat().st_size if path.is_file() else 0


def make_test_set(
    records: Sequence[VideoRecord],
    info: WeightsInfo,
    *,
    num_clips: int | None = None,
    num_crops: int | None = None,
    side: int | None = None,
    crop: Crop | None = None,
) -> VideoDataset:
    """Create a test set of videos for a network, from its description of the input.

    The defaults are those of the network's authors, `info.views`: 10 clips x 3 crops for official
    files and for networks trained here. docs/testing.md lists others with their sources.

    Args:
        records: the videos.
        info: description of the network (`model.info`): clip, number of classes, short side and
            normalization.
        num_clips: clips spread over the video (`data.sampling.test_clips`); 1 is the middle one.
            By default 1 if a clip is segments of the whole video.
        num_crops: 1 in the center, 3 along the longer side, 6 with their mirror images, 10 in the
            corners and the center with theirs; of whole frames, by default 1.
        side: short side of the frames in pixels; by default `info.short_side`.
        crop: side of the crops in pixels, by default that of `info.views`, or else `side`; "whole"
            is the whole frame.

    Returns:
        The test set.

    Raises:
        ValueError: crops that do not fit, or labels that do not fit the network.
    """
    views, clip = info.views, ClipSpec.parse(info.config["clip"])
    if crop is None:
        crop = (views.crop if side is None else None) or side or info.short_side
    side = info.short_side if side is None else side
    if num_crops is None:
        num_crops = 1 if crop == "whole" else views.num_crops
    if num_clips is None:
        num_clips = views.num_clips or (1 if clip.rate is None else 10)
    transform = TestTransform(crop, side, num_crops, info.mean, info.std, views.rule)
    return VideoDataset(
        records,
        info.config["num_classes"],
        clip,
        transform,
        train=False,
        num_clips=num_clips,
        rule=views.rule,
        multi_label=info.multi_label,
    )
