"""Seeded training samples; unreadable ones are replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import NamedTuple

import torch

from nonlocalnet.errors import FileError


class Draw(NamedTuple):
    """A training sample: the number of its item, and the seed of all random choices in it."""

    item: int
    seed: int


@contextlib.contextmanager
def seeded(seed: int) -> Generator[None]:
    """Seed torch's global generator, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class Unreadable:
    """Record which items of a data set could not be read, in memory shared by worker processes.

    Args:
        names: of all items, for messages.
        what: the word for items, in the plural.
        max_bad: the largest share of such items.
    """

    def __init__(self, names: Sequence[str], what: str, max_bad: float = 0.1) -> None:
        self.names, self.what, self.max_bad = names, what, max_bad
        self._bad = torch.zeros(len(names), dtype=torch.bool).share_memory_()

    def indices(self) -> list[int]:
        """List the unreadable items that any process has found so far."""
        return self._bad.nonzero().flatten().tolist()

    def add(self, i: int, error: FileError) -> None:
        """Add an item.

        Raises:
            RuntimeError: there are more than the share `max_bad`, or no others; it names several.
        """
        self._bad[i] = True
        bad, length = self.indices(), len(self._bad)
        if len(bad) > self.max_bad * length or len(bad) == length:
            some = "; ".join(self.names[k] for k in bad[:5])
            raise RuntimeError(
                f"{len(bad)} of {length} {self.what} cannot be read, more than max_bad = "
                f"{self.max_bad:g} allows: {some}{' ...' if len(bad) > 5 else ''} (last: {error})"
            ) from error

    def replacement(self) -> int:
        """Draw an item to replace an unreadable one.

        It is drawn from all items, since which ones are known to be unreadable depends on timing.
        """
        return int(torch.randint(len(self._bad), ()).item())
