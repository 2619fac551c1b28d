"""Batches of a training set without end, the same for any number of processes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from nonlocalnet.data.seeding import Draw
from nonlocalnet.errors import option
from nonlocalnet.runtime.distributed import rank, size
from nonlocalnet.runtime.log import status
from nonlocalnet.runtime.workers import WorkerSignals

if TYPE_CHECKING:
    from nonlocalnet.data.dataset import VideoDataset
    from nonlocalnet.detection.dataset import CocoDataset

Batches = Generator[Any]

RESTARTS = 3  # of decoding processes, without a batch in between


def mix(*numbers: int) -> int:
    """Give a 32-bit seed that depends on all of the numbers, each 0 or more."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class _Draws(Sampler[Draw]):
    """Give this process its share of every update, from a given update on, without end.

    Position p of the run is place p mod L of epoch p // L's order of the L items, whatever the
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
    dataset: VideoDataset | CocoDataset,
    *,
    batch_size: int,
    seed: int,
    start: int,
    workers: int,
    accumulate: int = 1,
    pin_memory: bool = False,
    collate: Callable[[list], Any] | None = None,
) -> Batches:
    """Give batches without end: a new order of the items each epoch.

    A batch may hold the end of one epoch and the beginning of the next, so that none is short. What
    it holds depends on the seed and its number alone. Decoding processes that die are replaced.

    Args:
        dataset: for training; its items are asked for as `Draw`.
        batch_size: items of an update, in all processes.
        seed: of the order and of all augmentation.
        start: the update to begin with.
        workers: processes that decode.
        accumulate: batches that this process's share of an update comes in.
        pin_memory: for copies to a GPU.
        collate: makes a batch of a list of items; by default torch's.

    Raises:
        RuntimeError: more items than the data set allows cannot be read, or decoding processes
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
                worker_init_fn=WorkerSignals(over),
                pin_memory=pin_memory,
                collate_fn=collate,
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
            f"may be short of memory; try fewer {option('workers')}"
        ) from None
    status.print("a decoding process died; beginning again where it was", soft_wrap=True)
