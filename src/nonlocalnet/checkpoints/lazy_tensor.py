"""A tensor in a file: what it is, and how to read it; nothing is read before it is needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_AXES = 8
LARGEST_SIZE = 1 << 48  # of a size; beyond it even messages would be long


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: what it is, and how to read it when it is needed."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    def map(self, shape: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> Entry:
        """The same tensor, changed as it is read."""
        return Entry(shape, self.dtype, lambda: change(self.read()))


@dataclass(frozen=True)
class Storage:
    """Numbers in a row, somewhere in the file."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], bytearray]


class Refused(ValueError):
    """What the file asks for is not admitted."""


def sizes(values: Any) -> tuple[int, ...]:
    """Check that these are the sizes or steps of a tensor: few, whole, and of this world."""
    if (
        not isinstance(values, (tuple, list))
        or len(values) > MAX_AXES
        or not all(type(n) is int and 0 <= n < LARGEST_SIZE for n in values)
    ):
        raise Refused("it has a tensor that makes no sense")
    return tuple(values)


def _overlap(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Tell whether two elements may lie in one place: a step within what smaller steps reach."""
    reach = 0
    for step, n in sorted((step, n) for n, step in zip(shape, stride, strict=True) if n > 1):
        if step <= reach:
            return True
        reach += (n - 1) * step
    return False


def view(storage: Storage, offset: int, shape: Any, stride: Any) -> Entry:
    """A strided view of a storage; every element must lie in it."""
    shape, stride, (offset,) = sizes(shape), sizes(stride), sizes((offset,))
    if not isinstance(storage, Storage) or len(shape) != len(stride):
        raise Refused("it has a tensor that makes no sense")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    numel = math.prod(shape)
    if math.prod(n or 1 for n in shape) >= LARGEST_SIZE:  # an empty one has other sizes too
        raise Refused(f"it has a tensor {shape}, which makes no sense")
    if numel and (last >= storage.numel or numel > storage.numel):
        raise Refused(f"it has a tensor {shape} of more numbers than the file holds for it")
    if numel and _overlap(shape, stride):
        raise Refused(
            f"it has a tensor {shape} with steps {stride}: its numbers share places, as those of "
            "weights never do"
        )

    def read() -> Tensor:
        if not numel:
            return torch.empty(shape, dtype=storage.dtype)
        flat = torch.frombuffer(storage.read(), dtype=storage.dtype)
        return flat.as_strided(shape, stride, offset)

    return Entry(shape, storage.dtype, read)
