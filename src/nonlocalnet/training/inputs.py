"""What a run reads: its data sets, and batches of them without end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from nonlocalnet.data.readers import is_table, read_videos
from nonlocalnet.data.sampling import ClipSpec
from nonlocalnet.data.transforms import TestTransform, TrainTransform
from nonlocalnet.data.video import VideoDataset
from nonlocalnet.models.info import read_classes
from nonlocalnet.models.registry import DEPTHS
from nonlocalnet.models.weights import Start
from nonlocalnet.runtime.download import find_weights
from nonlocalnet.training.config import TrainConfig


class _Shuffled(Sampler[int]):
    """Give the data set in a new order each epoch, without end, from a given draw on."""

    def __init__(self, length: int, seed: int, start: int) -> None:
        self.length, self.seed, self.start = length, seed, start

    def __iter__(self) -> Iterator[int]:
        epoch, skip = divmod(self.start, self.length)
        while True:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            yield from torch.randperm(self.length, generator=generator).tolist()[skip:]
            epoch, skip = epoch + 1, 0


def read_batches(
    dataset: VideoDataset,
    *,
    batch_size: int,
    seed: int,
    start: int,
    workers: int,
    pin_memory: bool = False,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give batches (clips, target, indices) without end: a new order of the videos each epoch.

    A batch may hold the end of one epoch and the beginning of the next, so that none is short.

    Args:
        dataset: with `train=True`.
        batch_size: clips.
        seed: of the order.
        start: videos drawn so far; the order goes on from there.
        workers: processes that decode.
        pin_memory: for copies to a GPU.
    """
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=_Shuffled(len(dataset), seed, start),
        num_workers=workers,
        worker_init_fn=_leave_signals_to_the_main_process,
        pin_memory=pin_memory,
    )
    return iter(loader)


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Let Ctrl-C, or a SIGTERM to the whole process group, end the run in order.

    The main process saves, then ends the workers; with a second SIGTERM where one does not hear.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


def find_start(config: TrainConfig) -> Path | None:
    """Give the file that the weights, or their normalisation, come from; get it if need be.

    When a run is resumed that is its own; the default for ResNet-50 and -101 is torchvision's
    ImageNet classifier of that depth.

    Raises:
        ValueError: "imagenet" for another network.
        FileNotFoundError: neither a file nor a release.
    """
    if config.resume:
        path = config.out / "model.safetensors"
        return path if path.is_file() else None  # then there is no checkpoint either
    if config.init == "none":
        return None
    if config.init not in ("auto", "imagenet"):
        path = find_weights(config.init)
        if not path.is_file():
            raise FileNotFoundError(
                f"no weights to start from: {config.init} is neither a file nor a release "
                "(nonlocalnet zoo)"
            )
        return path
    depth = next((name for name in DEPTHS if f"_{name}" in config.model), None)
    if depth is not None:
        return find_weights(f"resnet{depth[1:]}_imagenet")
    if config.init == "imagenet":
        raise ValueError(
            f"{config.model} has no ImageNet weights, ResNet-50 and -101 have; pass --init none"
        )
    return None


def read_data(config: TrainConfig) -> tuple[VideoDataset, VideoDataset | None, list[str]]:
    """Make the training set, the validation set (one centred view a video) and the class names.

    Raises:
        ValueError, FileNotFoundError: as the readers of `data/readers.py`.
    """
    names = None if config.classes is None else read_classes(config.classes)
    records, classes = read_videos(config.data, root=config.root, classes=names)
    multi_label = is_table(config.data) or any(len(record.labels) != 1 for record in records)
    clip = ClipSpec.parse(config.clip)
    training = VideoDataset(
        records,
        len(classes),
        clip,
        TrainTransform(config.crop, config.short_side, config.flip),
        train=True,
        multi_label=multi_label,
        max_bad=config.max_bad,
        cache=config.cache,
    )
    if config.val is None:
        return training, None, classes
    records, val_classes = read_videos(config.val, root=config.root, classes=names)
    if config.val.is_dir() and val_classes != classes:
        raise ValueError(
            f"{config.val} has the classes {val_classes[:5]}..., {config.data} has {classes[:5]}..."
        )
    side = config.short_side[0]
    validation = VideoDataset(
        records,
        len(classes),
        clip,
        TestTransform(side, side),
        train=False,
        multi_label=multi_label,
        cache=config.cache,
    )
    return training, validation, classes


def normalize_as(start: Start, *datasets: VideoDataset | None) -> None:
    """Normalise the clips of data sets as those that the weights to start from were trained on."""
    for dataset in datasets:
        if dataset is not None:
            assert isinstance(dataset.transform, TrainTransform | TestTransform)
            dataset.transform.mean, dataset.transform.std = start.mean, start.std
