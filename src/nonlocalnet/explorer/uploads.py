"""Places for uploads that nobody holds by being slow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator

PLACES = 4  # uploads at once
RATE = 32 << 10  # bytes a second that an upload has at least
GRACE = 15.0  # seconds that it may fall behind that
PATIENCE = 1.0  # seconds behind, from which on it makes room for another
LONGEST = 900.0  # seconds for an upload


class TooSlow(Exception):
    """An upload that fell behind."""


class Full(Exception):
    """All places are taken by uploads that go on."""


class Upload:
    """One that is received: every byte moves its end, which is never more than GRACE away."""

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._last = self._now() + LONGEST
        self._end = self._now() + GRACE
        self._clock: asyncio.Timeout | None = None

    @property
    def behind(self) -> float:
        """How many seconds it is behind RATE."""
        return self._now() + GRACE - self._end

    def drop(self) -> None:
        """Let its reading end, as too slow, at once."""
        self._last = self._now()
        if self._clock is not None:
            self._clock.reschedule(self._last)

    async def read(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Give the body piece by piece.

        Raises:
            TooSlow: it fell behind, paused or lasted too long, or was dropped.
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
    """Hand out the places: where all are taken, the slowest upload that is behind makes room."""

    def __init__(self) -> None:
        self._held: list[Upload] = []

    @contextlib.contextmanager
    def place(self) -> Generator[Upload]:
        """Hold a place.

        Raises:
            Full: there is none, and no upload is behind.
        """
        if len(self._held) >= PLACES:
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
