"""Choose dtypes: accumulate in at least float32; multiply in half precision where fast."""

from __future__ import annotations

import contextlib
import functools

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for half precision; wider dtypes stay."""
    return dtype if dtype.itemsize > 2 else torch.float32


def common_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the widest: under autocast, half-precision projections meet float32 features."""
    widest = tensors[0].dtype
    for tensor in tensors:
        if tensor.dtype.itemsize > widest.itemsize:
            widest = tensor.dtype
    return widest


def product_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """Return the dtype in which to multiply tensors of this dtype on this device.

    It is the same unless the device is slow at it: a CPU without bfloat16 units multiplies
    bfloat16 tens of times more slowly than float32 (docs/operation.md). float16 is always
    multiplied in float32 on a CPU.
    """
    if device == "cpu" and not (dtype == torch.bfloat16 and has_bfloat16_units()):
        return wide(dtype)
    return dtype


@functools.cache
def has_bfloat16_units() -> bool:
    """Tell whether this machine's CPU has bfloat16 units, which add in float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(unit, False) for unit in ("avx512_bf16", "amx_bf16"))


def autocast_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """Return the dtype of a matrix product of this dtype: autocast's, if autocast is on."""
    if dtype != torch.float64 and _autocast(device):
        return torch.get_autocast_dtype(device)
    return dtype


def without_autocast(device: str) -> contextlib.AbstractContextManager:
    """Return a context manager in which autocast is off."""
    return torch.autocast(device, enabled=False) if _autocast(device) else contextlib.nullcontext()


def _autocast(device: str) -> bool:
    return device != "meta" and torch.is_autocast_enabled(device)  # meta has no autocast
