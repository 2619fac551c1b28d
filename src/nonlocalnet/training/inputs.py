"""What a run reads: the weights it starts from, and its data sets."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from nonlocalnet.checkpoints.download import find_weights
from nonlocalnet.checkpoints.metadata import read_classes
from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.formats.lists import VideoRecord
from nonlocalnet.data.transforms import TestTransform, TrainTransform
from nonlocalnet.detection.find import FileKind, find_coco
from nonlocalnet.errors import option, printable
from nonlocalnet.networks.registry import DEPTHS
from nonlocalnet.runtime.log import status
from nonlocalnet.training.config import TrainConfig

if TYPE_CHECKING:
    from nonlocalnet.detection.dataset import CocoDataset


def find_start(config: TrainConfig) -> Path | None:
    """Give the file that the weights come from; get it if need be.

    Raises:
        ValueError: "imagenet" for another network than ResNet-50 and -101.
        FileNotFoundError: neither a file nor a release.
        OSError: the release cannot be got, and what to start from instead.
    """
    if config.init == "none":
        return None
    if config.init != "imagenet":
        path = _get(config.init)
        if not path.is_file():
            raise FileNotFoundError(
                f"no weights to start from: {config.init} is neither a file nor a release "
                "(nonlocalnet zoo)"
            )
        return path
    depth = next((name for name in DEPTHS if f"_{name}" in config.model), None)
    if depth is None:
        raise ValueError(
            f"{config.model} has no ImageNet weights, ResNet-50 and -101 have; pass "
            f"{option('init', 'none')}, or {option('init', 'FILE')}"
        )
    return _get(f"resnet{depth[1:]}_imagenet")


def _get(weights: str) -> Path:
    try:
        return find_weights(weights)
    except OSError as error:
        raise type(error)(
            f"{error}; or start from a file, {option('init', 'FILE')}, or from random weights, "
            f"{option('init', 'none')}"
        ) from None


def read_data(config: TrainConfig) -> tuple[VideoDataset, VideoDataset | None, list[str]]:
    """Make the training set, the validation set (one centerd view a video) and the class names.

    Raises:
        ValueError, FileNotFoundError: as `read_dataset`; more videos are missing than max_bad
            allows; one split has a class that the other lacks; clips would be mirrored
            whose labels say left and right.
    """
    names = None if config.classes is None else read_classes(config.classes)
    found = read_dataset(
        config.data, val=config.val, root=config.root, classes=names, split=config.split
    )
    if found.missing:
        listed = found.missing + len(found.train) + len(found.val or ())
        one = printable(found.absent[0])
        text = f"{found.missing} of {listed} listed videos are missing, {one} for one"
        if found.missing > config.max_bad * listed:
            raise ValueError(
                f"{text}: more than max_bad = {config.max_bad:g} allows; is {option('root')} right?"
            )
        status.print(f"{text}; they are left out", soft_wrap=True)
    if not found.mirrored and config.flip:
        raise ValueError(
            f"the labels of {config.data} say left and right: clips cannot be mirrored; pass "
            f"{option('flip', 0)}"
        )
    for note in found.notes:
        status.print(note, soft_wrap=True)
    found.check_classes()
    side = config.test_side or config.short_side[0]
    shared = {"multi_label": found.multi_label, "cache": config.cache}
    counts, clip = len(found.classes), ClipSpec.parse(config.clip)
    transform = TrainTransform(config.crop, config.short_side, config.flip)
    training = VideoDataset(
        found.train, counts, clip, transform, train=True, max_bad=config.max_bad, **shared
    )
    if found.val is None:
        return training, None, found.classes
    validation = VideoDataset(
        found.val, counts, clip, TestTransform(side, side), train=False, **shared
    )
    return training, validation, found.classes


def read_coco(config: TrainConfig, kind: FileKind) -> tuple[CocoDataset, CocoDataset | None]:
    """Make the training set, mirrored and jittered, and the validation set; networks resize both.

    Raises:
        CocoError: as `find_coco` and `CocoDataset`.
    """
    from nonlocalnet.detection.dataset import CocoDataset
    from nonlocalnet.detection.transforms import ImageTrainTransform

    train, val = find_coco(config.data, kind, val=config.val, root=config.root)
    keypoints = kind == "person_keypoints"
    training = CocoDataset(
        train.images,
        train.annotations,
        keypoints=keypoints,
        masks=not keypoints,
        max_bad=config.max_bad,
    )
    training.transform = ImageTrainTransform(
        None, flip=config.flip, jitter=config.jitter, keypoints=training.keypoint_names
    )
    if val is None:
        return training, None
    return training, CocoDataset(val.images, val.annotations, masks=False, training=False)


def fingerprint(records: list[VideoRecord]) -> str:
    """Hash the names and labels of videos, so that a run goes on with the data it began with."""
    text = "\n".join(f"{record.name} {record.labels}" for record in records)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
