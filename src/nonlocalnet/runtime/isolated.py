"""Run functions in processes that may crash or hang without ending this one.

A crash of FFmpeg on a hostile file takes its process with it, and the process pools of the standard
library break when a worker dies.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# multiprocessing looks after the processes of all threads whenever one is started, and an exit code
# can be read only once
_PROCESSES = threading.Lock()

STARTUP_LIMIT = 120.0  # seconds that a process may take to import its modules, torch among them


@dataclass(frozen=True)
class Failure:
    """The reason why a call has no result: an error, a crash or the time limit."""

    reason: str


def run_isolated(
    function: Callable[..., T],
    items: Sequence[tuple[Any, ...]],
    *,
    workers: int,
    time_limit: float,
) -> Iterator[tuple[int, T | Failure]]:
    """Call `function(*item)` for each item in several processes; yield (index, result) when done.

    Args:
        function: importable by name; its arguments and results must pickle.
        items: arguments of the calls.
        workers: processes.
        time_limit: seconds for one item, without the start of a process.

    Yields:
        The index of an item and its result, in the order of completion. The result is a `Failure`
        if the function raised, the process died, or the time limit was exceeded; the other items
        are not affected.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    for index in range(len(items)):
        waiting.put(index)
    calls = [
        IsolatedCall(time_limit=time_limit, modules=[function.__module__])
        for _ in range(min(workers, len(items)))
    ]

    def work(call: IsolatedCall) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                index = waiting.get_nowait()
                try:
                    done.put((index, call(function, *items[index])))
                except Exception as error:  # such as an item that does not pickle
                    done.put((index, error))

    pool = ThreadPoolExecutor(max(1, len(calls)))
    try:
        for call in calls:
            pool.submit(work, call)
        for _ in items:
            index, result = done.get()
            if isinstance(result, Exception):
                raise result
            yield index, result
    finally:
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.get_nowait()
        for call in calls:
            call.close()
        pool.shutdown()


class IsolatedCall:
    """Call functions in a separate process, one call at a time, within limits of time and memory.

    The process is reused; one that died or was killed is replaced at the next call. The result is a
    `Failure` if the function raised, the process died, a limit was exceeded, or `close` was called.

    Args:
        time_limit: seconds for one call.
        memory_limit: bytes that calls may allocate beyond what the process has when it starts;
            None is no limit.
        modules: modules that the process imports when it starts, before the limits apply.

    >>> call = IsolatedCall(time_limit=60, memory_limit=1 << 30)
    >>> call(divmod, 7, 2), call(divmod, 7, 0).reason
    ((3, 1), 'integer division or modulo by zero')
    >>> call.close()
    """

    def __init__(
        self, *, time_limit: float, memory_limit: int | None = None, modules: Sequence[str] = ()
    ) -> None:
        self.time_limit, self.memory_limit = time_limit, memory_limit
        self.modules = list(modules)
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._ready = self._closed = False
        self._lock = threading.Lock()

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T | Failure:
        with self._lock:
            if not self._closed and not self._is_alive():
                self._kill()
                try:
                    self._start()
                except (EOFError, OSError) as error:  # too many processes, or all are being ended
                    return Failure(f"no process could be started to read it ({error})")
            if self._closed:
                self._kill()
                return Failure("files are no longer read")
            process, pipe = self._process, self._pipe
            assert process is not None
            assert pipe is not None
            try:
                if not self._ready:  # the time of imports does not count for the first call
                    self._ready = pipe.poll(STARTUP_LIMIT)
                    if not self._ready:
                        self._kill()
                        return Failure(f"its process did not start within {STARTUP_LIMIT:g} s")
                    pipe.recv()
                pipe.send((function, arguments))
                if pipe.poll(self.time_limit):
                    return pipe.recv()
                self._kill()
                return Failure(f"took longer than {self.time_limit:g} s")
            except (EOFError, OSError):
                with _PROCESSES:
                    process.join(5)
                    cause = _cause(process.exitcode)
                self._kill()
                return Failure(f"its process died ({cause})")
            except BaseException:  # else a late answer would be taken for that of the next call
                self._kill()
                raise

    def _start(self) -> None:
        # not forked from this process, which may have threads
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(self.modules)
        self._pipe, theirs = context.Pipe()
        arguments = theirs, self.memory_limit, self.modules
        process = context.Process(target=_serve, args=arguments, daemon=True)
        with _PROCESSES:
            process.start()
        theirs.close()  # else the end of the process would not be seen
        self._process, self._ready = process, False

    def _is_alive(self) -> bool:
        with _PROCESSES:
            return self._process is not None and self._process.is_alive()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            with _PROCESSES:
                self._process.join()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def close(self) -> None:
        """End the process, even during a call; a process that is just starting ends by itself."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()  # the thread that waits for it sees its end, and releases the lock
        if self._lock.acquire(timeout=1):  # starting a process takes seconds and cannot be canceled
            self._kill()
            self._lock.release()


def _serve(pipe: Connection, memory_limit: int | None, modules: Sequence[str]) -> None:
    """Answer calls until the parent process closes the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    for module in modules:
        importlib.import_module(module)
    if memory_limit is not None:
        _limit_memory(memory_limit)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # the parent has gone: recv() tells
        pipe.send("ready")
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            # pickled here: torch would share tensors through this process, which may be killed
            pipe.send_bytes(pickle.dumps(function(*arguments)))
        except Exception as error:
            # torch's own error says "allocate memory"
            memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
            text = "it needs more memory than it may take" if memory else str(error)
            pipe.send(Failure(text or type(error).__name__))


def _limit_memory(limit: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not every system has such limits
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        total = pages * resource.getpagesize() + limit
        resource.setrlimit(resource.RLIMIT_AS, (total, total))


def _end_with_parent() -> None:
    """End this process when its parent ends, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
