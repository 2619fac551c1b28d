"""What a run reads: its data sets, and batches of them without end."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.readers import VideoRecord
from nonlocalnet.data.sampling import ClipSpec
from nonlocalnet.data.transforms import TestTransform, TrainTransform
from nonlocalnet.data.video import Draw, VideoDataset
from nonlocalnet.evaluation.workers import Obey
from nonlocalnet.models.info import read_classes
from nonlocalnet.models.registry import DEPTHS
from nonlocalnet.models.weights import Start
from nonlocalnet.runtime.distributed import rank, size
from nonlocalnet.runtime.download import find_weights
from nonlocalnet.runtime.log import status
from nonlocalnet.training.config import TrainConfig

Batches = Generator[tuple[Tensor, Tensor, Tensor]]  # clips, target, indices

RESTARTS = 3  # of decoding processes, without a batch in between


def mix(*numbers: int) -> int:
    """Give a 32-bit seed that depends on all of the numbers, each 0 or more."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class _Draws(Sampler[Draw]):
    """Give this process its share of every update, from a given update on, without end.

    Position p of the run is place p mod L of epoch p // L's order of the L videos, whatever the
    number of processes: update u has the positions u B to (u + 1) B - 1, and rank r of n the r-th
    of n equal parts of them.
    """

    def __init__(self, length: int, batch_size: int, seed: int, start: int) -> None:
        self.length, self.batch_size, self.seed, self.start = length, batch_size, seed, start

    def __iter__(self) -> Iterator[Draw]:
        share = self.batch_size // size()
        epoch, order = -1, torch.empty(0)
        for update in itertools.count(self.start):
            first = update * self.batch_size + rank() * share
            for position in range(first, first + share):
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(mix(self.seed, epoch))
                    order = torch.randperm(self.length, generator=generator)
                yield Draw(int(order[position % self.length]), mix(self.seed, epoch, position))


def read_batches(
    dataset: VideoDataset,
    *,
    batch_size: int,
    seed: int,
    start: int,
    workers: int,
    accumulate: int = 1,
    pin_memory: bool = False,
) -> Batches:
    """Give batches (clips, target, indices) without end: a new order of the videos each epoch.

    A batch may hold the end of one epoch and the beginning of the next, so that none is short. What
    it holds depends on the seed and its number alone. Decoding processes that die are replaced.

    Args:
        dataset: with `train=True`.
        batch_size: clips of an update, in all processes.
        seed: of the order and of all augmentation.
        start: the update to begin with.
        workers: processes that decode.
        accumulate: batches that this process's share of an update comes in.
        pin_memory: for copies to a GPU.

    Raises:
        RuntimeError: more videos than the data set allows cannot be read, or decoding processes
            die again and again.
    """
    part = batch_size // (size() * accumulate)
    given = failures = 0
    over = torch.zeros(1, dtype=torch.bool).share_memory_()
    try:
        while True:
            update, skip = divmod(given, accumulate)
            loader = DataLoader(
                dataset,
                batch_size=part,
                sampler=_Draws(len(dataset), batch_size, seed, start + update),
                num_workers=workers,
                worker_init_fn=Obey(over),
                pin_memory=pin_memory,
                generator=torch.Generator(),  # its own: the first batch would draw from torch's
            )
            try:
                for batch in itertools.islice(loader, skip, None):
                    yield batch
                    given, failures = given + 1, 0
            except RuntimeError as error:
                failures += 1
                _check_goes_on(str(error), failures)
    finally:
        over.fill_(True)  # else processes would take their end by an error for Ctrl-C's, and wait


def _check_goes_on(text: str, failures: int) -> None:
    """Begin again after the death of a decoding process; other errors end the run.

    Raises:
        RuntimeError: in one sentence.
    """
    if not re.search(r"DataLoader worker \(pid", text):
        if "Original Traceback" in text:  # of a worker; its last line is the error
            text = text.strip().splitlines()[-1].removeprefix("RuntimeError: ")
        raise RuntimeError(text) from None
    if failures > RESTARTS:
        raise RuntimeError(
            f"decoding processes die again and again ({text.splitlines()[0]}): the machine "
            "may be short of memory; try fewer --workers"
        ) from None
    status.print("a decoding process died; beginning again where it was", soft_wrap=True)


def find_start(config: TrainConfig) -> Path | None:
    """Give the file that the weights come from; get it if need be.

    Raises:
        ValueError: "imagenet" for another network than ResNet-50 and -101.
        FileNotFoundError: neither a file nor a release.
    """
    if config.init == "none":
        return None
    if config.init != "imagenet":
        path = find_weights(config.init)
        if not path.is_file():
            raise FileNotFoundError(
                f"no weights to start from: {config.init} is neither a file nor a release "
                "(nonlocalnet zoo)"
            )
        return path
    depth = next((name for name in DEPTHS if f"_{name}" in config.model), None)
    if depth is None:
        raise ValueError(
            f"{config.model} has no ImageNet weights, ResNet-50 and -101 have; pass --init none"
        )
    return find_weights(f"resnet{depth[1:]}_imagenet")


def read_data(config: TrainConfig) -> tuple[VideoDataset, VideoDataset | None, list[str]]:
    """Make the training set, the validation set (one centred view a video) and the class names.

    Raises:
        ValueError, FileNotFoundError: as `read_dataset`; more videos are missing than max_bad
            allows; clips would be mirrored whose labels say left and right.
    """
    names = None if config.classes is None else read_classes(config.classes)
    found = read_dataset(
        config.data, val=config.val, root=config.root, classes=names, split=config.split
    )
    if found.missing:
        listed = found.missing + len(found.train) + len(found.val or ())
        text = f"{found.missing} of {listed} listed videos are missing, {found.absent[0]} for one"
        if found.missing > config.max_bad * listed:
            raise ValueError(
                f"{text}: more than max_bad = {config.max_bad:g} allows; is --root right?"
            )
        status.print(f"{text}; they are left out", soft_wrap=True)
    if not found.mirrored and config.flip:
        raise ValueError(
            f"the labels of {config.data} say left and right: clips cannot be mirrored; pass "
            "--flip 0"
        )
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


def fingerprint(records: list[VideoRecord]) -> str:
    """Hash the names and labels of videos, so that a run goes on with the data it began with."""
    text = "\n".join(f"{record.name} {record.labels}" for record in records)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def normalize_as(start: Start, *datasets: VideoDataset | None) -> None:
    """Normalise the clips of data sets as those that the weights to start from were trained on."""
    for dataset in datasets:
        if dataset is not None:
            assert isinstance(dataset.transform, TrainTransform | TestTransform)
            dataset.transform.mean, dataset.transform.std = start.mean, start.std
