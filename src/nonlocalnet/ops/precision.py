"""What sums and products are made of: float32 at least, and half precision where it is fast."""

from __future__ import annotations

import contextlib
import functools

import torch


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 as it is."""
    return dtype if dtype.itemsize > 2 else torch.float32


def product_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """What tensors of that dtype are multiplied as: the same, unless the device is bad at it.

    A CPU without units for bfloat16 multiplies it tens of times more slowly than float32
    (docs/operation.md); units for float16 are not looked for.
    """
    if device == "cpu" and not (dtype == torch.bfloat16 and has_bfloat16_units()):
        return wide(dtype)
    return dtype


@functools.cache
def has_bfloat16_units() -> bool:
    """Whether this machine's CPU multiplies bfloat16 and adds in float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(unit, False) for unit in ("avx512_bf16", "amx_bf16"))


def autocast_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """What a matrix product of that dtype gives here: autocast's dtype where it is on."""
    if dtype != torch.float64 and _autocast(device):
        return torch.get_autocast_dtype(device)
    return dtype


def without_autocast(device: str) -> contextlib.AbstractContextManager:
    """Switch autocast off where it is on."""
    return torch.autocast(device, enabled=False) if _autocast(device) else contextlib.nullcontext()


def _autocast(device: str) -> bool:
    return device != "meta" and torch.is_autocast_enabled(device)  # meta has none
