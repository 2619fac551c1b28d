"""A tensor in a file: shape and dtype are known at once, its numbers are read when needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_DIMS = 8
MAX_SIZE = 1 << 48  # no real tensor is larger; without a limit even messages would be long


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file.

    Attributes:
        shape, dtype: of the tensor.
        read: reads its numbers from the file.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    def map(self, shape: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> LazyTensor:
        """Return the tensor that `change` makes of this one when it is read."""
        return LazyTensor(shape, self.dtype, lambda: change(self.read()))


@dataclass(frozen=True)
class Storage:
    """A run of numbers in a file; tensors are views of it."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], bytearray]


class Refused(ValueError):
    """The file contains something that weights never need."""


def sizes(values: Any) -> tuple[int, ...]:
    """Check that the values can be the sizes or strides of a tensor."""
    if (
        not isinstance(values, (tuple, list))
        or len(values) > MAX_DIMS
        or not all(type(n) is int and 0 <= n < MAX_SIZE for n in values)
    ):
        raise Refused("it has a tensor that makes no sense")
    return tuple(values)


def view(storage: Storage, offset: int, shape: Any, stride: Any) -> LazyTensor:
    """Return a strided view of a storage.

    Raises:
        Refused: the view is larger than the storage, or two of its elements may share a place.
    """
    shape, stride, (offset,) = sizes(shape), sizes(stride), sizes((offset,))
    if not isinstance(storage, Storage) or len(shape) != len(stride):
        raise Refused("it has a tensor that makes no sense")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    numel = math.prod(shape)
    if math.prod(n or 1 for n in shape) >= MAX_SIZE:  # an empty tensor has other sizes too
        raise Refused(f"it has a tensor {shape}, which makes no sense")
    if numel and (last >= storage.numel or numel > storage.numel):
        raise Refused(f"it has a tensor {shape} of more numbers than the file holds for it")
    if numel and _may_overlap(shape, stride):
        raise Refused(
            f"it has a tensor {shape} with strides {stride}: several of its numbers share one "
            "place, which never happens in weights"
        )

    def read() -> Tensor:
        if not numel:
            return torch.empty(shape, dtype=storage.dtype)
        flat = torch.frombuffer(storage.read(), dtype=storage.dtype)
        return flat.as_strided(shape, stride, offset)

    return LazyTensor(shape, storage.dtype, read)


def _may_overlap(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Tell whether a stride is within the range that smaller strides reach."""
    reach = 0
    for step, n in sorted((step, n) for n, step in zip(shape, stride, strict=True) if n > 1):
        if step <= reach:
            return True
        reach += (n - 1) * step
    return False
