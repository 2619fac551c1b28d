"""Items drawn for training: each with its own seed, those that cannot be read replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import NamedTuple

import torch

from nonlocalnet.errors import FileError


class Draw(NamedTuple):
    """One training item: which one, and the seed of all chance in it."""

    item: int
    seed: int


@contextlib.contextmanager
def seeded(seed: int) -> Generator[None]:
    """Let torch's global generator begin with a seed, and be afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class Unreadable:
    """Keep which items of a data set could not be read, in memory that worker processes share.

    Args:
        names: of all items, for messages.
        what: the items are, in the plural.
        max_bad: the share of items above which a RuntimeError names several.
    """

    def __init__(self, names: Sequence[str], what: str, max_bad: float = 0.1) -> None:
        self.names, self.what, self.max_bad = names, what, max_bad
        self._bad = torch.zeros(len(names), dtype=torch.bool).share_memory_()

    def indices(self) -> list[int]:
        """List those found so far, by any process."""
        return self._bad.nonzero().flatten().tolist()

    def add(self, i: int, error: FileError) -> None:
        """Note one more.

        Raises:
            RuntimeError: they are too many, or all.
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
        """Draw an item to take the place of one that cannot be read.

        Of all, bad ones too: which are known to be bad is a matter of timing.
        """
        return int(torch.randint(len(self._bad), ()).item())
