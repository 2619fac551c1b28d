"""Slots for uploads: a limited number at once, with a minimum rate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator

SLOTS = 4  # uploads at once
RATE = 32 << 10  # bytes per second, at least
GRACE = 15.0  # seconds that an upload may fall behind this rate
PATIENCE = 1.0  # seconds behind, after which it may be dropped for another upload
LONGEST = 900.0  # seconds for an upload


class TooSlow(Exception):
    """The upload was too slow."""


class Full(Exception):
    """All slots are taken by uploads that are fast enough."""


class Upload:
    """An upload in progress: each byte extends its deadline, up to GRACE from now."""

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._last = self._now() + LONGEST
        self._end = self._now() + GRACE
        self._clock: asyncio.Timeout | None = None

    @property
    def behind(self) -> float:
        """Seconds that it is behind RATE."""
        return self._now() + GRACE - self._end

    def drop(self) -> None:
        """End the upload now, as too slow."""
        self._last = self._now()
        if self._clock is not None:
            self._clock.reschedule(self._last)

    async def read(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the body chunk by chunk.

        Raises:
            TooSlow: the upload fell behind, took too long, or was dropped.
        """
        while True:
            try:
                async with asyncio.timeout_at(min(self._end, self._last)) as self._clock:
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise TooSlow from None
            finally:
                self._clock = None
            self._end = min(self._now() + GRACE, self._end + len(chunk) / RATE)
            yield chunk


class Uploads:
    """Assign slots; if all are taken, drop the slowest upload that is behind for a new one."""

    def __init__(self) -> None:
        self._held: list[Upload] = []

    @contextlib.contextmanager
    def slot(self) -> Generator[Upload]:
        """Hold a slot.

        Raises:
            Full: there is none, and no upload is behind.
        """
        if len(self._held) >= SLOTS:
            slowest = max(self._held, key=lambda upload: upload.behind)
            if slowest.behind < PATIENCE:
                raise Full
            slowest.drop()
            self._held.remove(slowest)
        upload = Upload()
        self._held.append(upload)
        try:
            yield upload
        finally:
            if upload in self._held:
                self._held.remove(upload)
