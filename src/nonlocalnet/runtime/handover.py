"""Hand items from one thread to another."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Handover(Generic[Item]):
    """Hand items from one thread to another, the oldest first, until the end or an error."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._over = False
        self._error: BaseException | None = None

    def put(self, item: Item, most: int | None = None) -> int:
        """Add an item; if more than `most` wait, drop the oldest. Return how many were dropped."""
        with self._changed:
            self._items.append(item)
            dropped = 0
            while most is not None and len(self._items) > most:
                self._items.popleft()
                dropped += 1
            self._changed.notify()
            return dropped

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing follows; the other thread gets an error after all items."""
        with self._changed:
            self._over, self._error = True, error
            self._changed.notify()

    def oldest(self) -> Item | None:
        """Look at the item that waits longest."""
        with self._changed:
            return self._items[0] if self._items else None

    def clear(self) -> list[Item]:
        """Drop all that waits, and return it."""
        with self._changed:
            dropped = list(self._items)
            self._items.clear()
            return dropped

    def get(self, timeout: float | None = None) -> Item | None:
        """Wait for the next item and take it; None if none comes in `timeout` seconds.

        Raises:
            EOFError: nothing follows. If the other thread ended with an error, that is raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._over, timeout)
            if self._items:
                return self._items.popleft()
            if self._over:
                raise self._error or EOFError
            return None
