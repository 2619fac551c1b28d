"""Run a function on many files in processes that may die or hang without ending the run.

The process pools of the standard library break when a worker dies; FFmpeg, given a hostile file,
may take its process with it.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

STARTING = 120.0  # seconds that a process may take to import what it needs, torch among it


@dataclass(frozen=True)
class Failure:
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
) -> Iterator[tuple[int, T | Failure]]:
    """Call function(*item) for each item in `workers` processes; give (index, result) as they come.

    `function` must be importable by name, its arguments and results must pickle. An exception, the
    death of a process, or more than `time_limit` seconds on one item (the start of a process not
    counted) is the result `Failure`; the process is replaced and the run goes on.
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
                        result = Failure(f"its process died ({_cause(worker.process.exitcode)})")
                        end(worker)
                        worker = start()
                        running.append(worker)
                elif time.monotonic() - worker.since > time_limit:
                    result = Failure(f"took longer than {time_limit:g} s")
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


class IsolatedCall:
    """Call functions in a process of its own, one at a time, within limits of time and memory.

    The process is kept from call to call; one that died or was killed is replaced at the next. An
    exception, a death or more than `time_limit` seconds is the result `Failure`, and so is every
    call once it is closed.

    Args:
        time_limit: seconds a call.
        memory_limit: bytes that calls may take beyond what the process has when it starts.
        modules: what it imports when it starts, before the limits hold.

    >>> call = IsolatedCall(time_limit=60, memory_limit=1 << 30)
    >>> call(divmod, 7, 2), call(divmod, 7, 0).reason
    ((3, 1), 'integer division or modulo by zero')
    >>> call.close()
    """

    def __init__(
        self, *, time_limit: float, memory_limit: int, modules: Sequence[str] = ()
    ) -> None:
        self.time_limit, self.memory_limit = time_limit, memory_limit
        self.modules = list(modules)
        self._worker: _Worker | None = None
        self._one, self._closed = threading.Lock(), False

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T | Failure:
        with self._one:
            if self._closed:
                return Failure("files are no longer read")
            if self._worker is None or not self._worker.process.is_alive():
                self._end()
                try:
                    self._worker = self._start()
                except (EOFError, OSError) as error:  # all processes are being ended, or too many
                    return Failure(f"no process could be started to read it ({error})")
            worker = self._worker
            try:
                if not worker.ready:  # its imports are not the first call's time
                    worker.ready = worker.pipe.poll(STARTING)
                    if not worker.ready:
                        self._end()
                        return Failure(f"its process did not start within {STARTING:g} s")
                    worker.pipe.recv()
                if self._closed:
                    return Failure("files are no longer read")
                worker.pipe.send((function, arguments))
                if worker.pipe.poll(self.time_limit):
                    return worker.pipe.recv()
                self._end()
                return Failure(f"took longer than {self.time_limit:g} s")
            except (EOFError, OSError):
                worker.process.join(5)
                cause = _cause(worker.process.exitcode)
                self._end()
                return Failure(f"the process that read it died ({cause})")
            except BaseException:  # an answer that comes later would be taken for the next call's
                self._end()
                raise

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(self.modules)
        ours, theirs = context.Pipe()
        arguments = theirs, self.memory_limit, self.modules
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.process.kill()
            self._worker.process.join()
            self._worker.pipe.close()
            self._worker = None

    def close(self) -> None:
        """End the process, in the midst of a call, too; one that only starts ends by itself."""
        self._closed = True
        worker = self._worker
        if worker is not None:
            worker.process.kill()  # whoever waits for it sees it die, and lets go
        if self._one.acquire(timeout=1):  # a start takes seconds, and cannot be ended
            self._end()
            self._one.release()


def _serve(pipe: Connection, memory_limit: int, modules: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in modules:
        importlib.import_module(module)
    with contextlib.suppress(ImportError, OSError, ValueError):  # where the system has such limits
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory_limit
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    _work(_call, pipe)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):  # torch's own
            raise ValueError("it needs more memory than it may take") from None
        raise


def _end_with_parent() -> None:
    """End this process with the one that it works for, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _work(function: Callable[..., Any], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # that nobody waits any more is seen below
        pipe.send(_Ready())
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            # by value: torch would share tensors through this process, which may be killed
            pipe.send_bytes(pickle.dumps(function(*item)))
        except Exception as error:
            pipe.send(Failure(str(error) or type(error).__name__))


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
