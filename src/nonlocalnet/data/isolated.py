"""Run a function on many files in processes that may die or hang without ending the run.

The process pools of the standard library break when a worker dies; FFmpeg, given a hostile file,
may take its process with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

T = TypeVar("T")

STARTING = 120.0  # seconds that a process may take to import what it needs, torch among it


@dataclass(frozen=True)
class Lost:
    """What became of an item that has no result: an error, a death or a time limit."""

    reason: str


class _Ready:
    """What a process says first: the clock of its first item starts."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    item: int = -1
    since: float = 0.0


def run_isolated(
    function: Callable[..., T],
    items: Sequence[tuple[Any, ...]],
    *,
    workers: int,
    time_limit: float,
) -> Iterator[tuple[int, T | Lost]]:
    """Call function(*item) for each item in `workers` processes; give (index, result) as they come.

    `function` must be importable by name, its arguments and results must pickle. An exception, the
    death of a process, or more than `time_limit` seconds on one item (the start of a process not
    counted) is the result `Lost`; the process is replaced and the run goes on.
    """
    # not forked from here: a progress bar has threads
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    waiting = iter(range(len(items)))
    running: list[_Worker] = []

    def start() -> _Worker:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(function, theirs), daemon=True)
        process.start()
        theirs.close()  # or the end of the process would not be seen
        return _Worker(process, ours)

    def feed(worker: _Worker) -> None:
        worker.item = next(waiting, -1)
        if worker.item < 0:
            end(worker)
            return
        worker.since = time.monotonic() + (0.0 if worker.ready else STARTING)
        with contextlib.suppress(OSError):  # it died at once: its pipe says so in the loop
            worker.pipe.send(items[worker.item])

    def end(worker: _Worker) -> None:
        running.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()

    try:
        for _ in range(min(workers, len(items))):
            running.append(start())
            feed(running[-1])
        while running:
            ready = wait([worker.pipe for worker in running], timeout=1.0)
            for worker in list(running):
                item = worker.item
                if worker.pipe in ready:
                    try:
                        result = worker.pipe.recv()
                        if isinstance(result, _Ready):
                            worker.ready, worker.since = True, time.monotonic()
                            continue
                    except (EOFError, OSError):
                        worker.process.join(5)
                        result = Lost(f"its process died ({_cause(worker.process.exitcode)})")
                        end(worker)
                        worker = start()
                        running.append(worker)
                elif time.monotonic() - worker.since > time_limit:
                    result = Lost(f"took longer than {time_limit:g} s")
                    end(worker)
                    worker = start()
                    running.append(worker)
                else:
                    continue
                feed(worker)
                yield item, result
    finally:
        for worker in list(running):
            end(worker)


def _work(function: Callable[..., Any], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    pipe.send(_Ready())
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            result = function(*item)
        except Exception as error:
            result = Lost(str(error) or type(error).__name__)
        pipe.send(result)


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
