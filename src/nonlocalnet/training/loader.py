"""Endless batches of a training set, the same for any number of processes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from nonlocalnet.data.seeding import Draw
from nonlocalnet.errors import option
from nonlocalnet.runtime.distributed import rank, world_size
from nonlocalnet.runtime.log import status
from nonlocalnet.runtime.workers import WorkerSignals, sentence_of

Batches = Generator[Any]

RESTARTS = 3  # of decoding processes, without a batch in between


class TrainingData(Protocol):
    """What training asks of a data set; an item is asked for with its seed, as a `Draw`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int | Draw) -> Any: ...

    def name(self, index: int) -> str: ...

    def bad_indices(self) -> list[int]: ...


def derive_seed(*numbers: int) -> int:
    """Return a 32-bit seed that depends on all of the numbers, each 0 or more."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class EndlessSampler(Sampler[Draw]):
    """Give this process its part of every update, from a given update on, without end.

    Position p of the run is place p mod L of the L items' order in epoch p // L, for any number of
    processes: update u has the positions u B to (u + 1) B - 1, and rank r of n has the r-th of n
    equal parts of them.
    """

    def __init__(self, length: int, batch_size: int, seed: int, start: int) -> None:
        self.length, self.batch_size, self.seed, self.start = length, batch_size, seed, start

    def __iter__(self) -> Iterator[Draw]:
        part = self.batch_size // world_size()
        epoch, order = -1, torch.empty(0)
        for update in itertools.count(self.start):
            first = update * self.batch_size + rank() * part
            for position in range(first, first + part):
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
                    order = torch.randperm(self.length, generator=generator)
                seed = derive_seed(self.seed, epoch, position)
                yield Draw(int(order[position % self.length]), seed)


def endless_batches(
    dataset: TrainingData,
    *,
    batch_size: int,
    seed: int,
    start: int,
    workers: int,
    accumulate: int = 1,
    pin_memory: bool = False,
    collate: Callable[[list], Any] | None = None,
) -> Batches:
    """Yield batches without end, with a new order of the items in each epoch.

    A batch may hold the end of one epoch and the start of the next, so that all have the same size.
    Its content depends on the seed and its number alone. Decoding processes that die are replaced.

    Args:
        dataset: the training set.
        batch_size: items of an update, in all processes.
        seed: of the order and of all augmentation.
        start: the first update.
        workers: decoding processes.
        accumulate: batches that this process's part of an update is divided into.
        pin_memory: for copies to a GPU.
        collate: makes a batch of a list of items; by default torch's.

    Raises:
        RuntimeError: more items than the data set allows cannot be read, or decoding processes
            die again and again.
    """
    part = batch_size // (world_size() * accumulate)
    given = failures = 0
    over = torch.zeros(1, dtype=torch.bool).share_memory_()
    try:
        while True:
            update, skip = divmod(given, accumulate)
            loader = DataLoader(
                cast("Dataset", dataset),
                batch_size=part,
                sampler=EndlessSampler(len(dataset), batch_size, seed, start + update),
                num_workers=workers,
                worker_init_fn=WorkerSignals(over),
                pin_memory=pin_memory,
                collate_fn=collate,
                generator=torch.Generator(),  # else the first batch would use torch's global one
            )
            try:
                for batch in itertools.islice(loader, skip, None):
                    yield batch
                    given, failures = given + 1, 0
            except RuntimeError as error:
                failures += 1
                _check_can_continue(sentence_of(error), failures)
    finally:
        over.fill_(True)  # else workers would take their end by an error for Ctrl-C, and wait


def _check_can_continue(text: str, failures: int) -> None:
    """Let a few deaths of decoding processes pass; any other error ends the run.

    Raises:
        RuntimeError: in one sentence.
    """
    if not re.search(r"DataLoader worker \(pid", text):
        raise RuntimeError(text) from None
    if failures > RESTARTS:
        raise RuntimeError(
            f"decoding processes die again and again ({text.splitlines()[0]}): the machine "
            f"may be short of memory; try fewer {option('workers')}"
        ) from None
    status.print("a decoding process died; restarting it at the same batch", soft_wrap=True)
