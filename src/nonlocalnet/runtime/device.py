"""Choose the device and the precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """Return a device by name; "auto" is the accelerator if there is one, else the CPU.

    Raises:
        ValueError: the device does not exist here.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from None


def pick_precision(name: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype for autocast, None for full precision; "auto" is bf16 where a GPU has it."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return None


@contextlib.contextmanager
def meta_device() -> Generator[None]:
    """Build networks without memory and without initial values.

    Drawing random numbers on the meta device makes torch import its compiler, which takes seconds.
    """
    with torch.device("meta"), _NoInitialValues():
        yield


class _NoInitialValues(TorchFunctionMode):
    """Leave tensors as they are, whatever `torch.nn.init` would fill them with."""

    DRAWN = (torch.Tensor.normal_, torch.Tensor.uniform_)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.DRAWN or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
