"""Ctrl-C and SIGTERM: a request to end in order."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """A computation was left because the run was asked to end."""


class Interrupt:
    """Turn the first SIGINT or SIGTERM into a flag; the second one is an ordinary one."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: signals go elsewhere
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def end_if_asked(self) -> None:
        """Leave a long computation that can be done again."""
        if self.asked:
            raise Interrupted

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, self._before[number])


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Generator[None]:
    """Let SIGTERM raise a KeyboardInterrupt, as SIGINT does: where no `Interrupt` hears it."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
