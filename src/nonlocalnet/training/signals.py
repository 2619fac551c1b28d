"""Ctrl-C and SIGTERM: stop a run in good order."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """A computation stopped because the run received a signal."""


class StopSignal:
    """Set a flag on the first SIGINT or SIGTERM; handle a second one normally."""

    def __init__(self) -> None:
        self.received = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread, which alone can handle signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Stop a long computation that can be repeated.

        Raises:
            Interrupted: a signal was received.
        """
        if self.received:
            raise Interrupted

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(number, self._before[number])


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Generator[None]:
    """Raise KeyboardInterrupt on SIGTERM, as on SIGINT, where no `StopSignal` handles it."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
