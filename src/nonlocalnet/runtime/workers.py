"""Worker processes that end together with the loop that uses them."""

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
    """Read the items of a data set in worker processes, and yield them in order.

    An exception in the block, such as that of Ctrl-C, ends the workers at once: torch would wait up
    to 5 s until each has read its video.

    Args:
        dataset: the data set.
        workers: worker processes; 0 reads in this process.
        ahead: items that are read in advance, at least one per worker.
        pin_memory: for copies to a GPU.

    Raises:
        RuntimeError: as an item raised it in a worker process, in one sentence.
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
    except BaseException as error:
        over.fill_(True)
        for process in started:
            process.terminate()
        if type(error) is RuntimeError and (text := sentence_of(error)) != str(error):
            raise RuntimeError(text) from None
        raise


def sentence_of(error: RuntimeError) -> str:
    """Return the message of an error, without the traceback that torch adds to a worker's."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.strip().splitlines()[-1].removeprefix("RuntimeError: ")


class WorkerSignals:
    """Make workers ignore signals until the main process says that the work is over.

    Ctrl-C reaches every process of a terminal, and SIGTERM often the whole group, but the main
    process decides what to do. Once the work is over, a worker exits with code 0, since torch
    raises in the main process if one is killed. A second SIGTERM ends a worker if the main process
    does not react.

    Args:
        over: a shared tensor of one bool, which the main process sets.
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
