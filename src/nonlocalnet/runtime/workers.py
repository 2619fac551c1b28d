"""Worker processes that end when the loop over what they read ends, however it ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


@contextlib.contextmanager
def read_items(
    dataset: Dataset, *, workers: int, ahead: int = 1, pin_memory: bool = False
) -> Generator[Iterator[Any]]:
    """Give the items of a data set in order, each as it is, read by that many processes.

    They read `ahead` items in advance, and at least one each.

    An exception in the block, such as Ctrl-C's, ends the processes at once: torch would wait until
    each has read its video, up to 5 s.
    """
    over = torch.zeros(1, dtype=torch.bool).share_memory_()
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=max(1, -(-ahead // workers)) if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=WorkerSignals(over) if workers else None,
    )
    before = set(multiprocessing.active_children())
    items = iter(loader)
    started = set(multiprocessing.active_children()) - before
    try:
        yield items
    except BaseException:
        over.fill_(True)
        for process in started:
            process.terminate()
        raise


class WorkerSignals:
    """Leave signals to the main process, until it says that all is over.

    Ctrl-C reaches every process of a terminal, and a SIGTERM often the whole group: the main one
    decides what to do. A worker that was told ends with 0, since torch raises in the main process
    when one is killed. A second SIGTERM ends it where the main process does not hear.
    """

    def __init__(self, over: Tensor) -> None:
        self.over = over

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, _: object) -> None:
        if self.over.item():
            os._exit(0)
        signal.signal(number, signal.SIG_DFL)
