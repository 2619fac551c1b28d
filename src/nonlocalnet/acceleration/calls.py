"""Decide for each call of an accelerated block whether the operation or its own code runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as every_module

from nonlocalnet.acceleration.attend import Attend, attend
from nonlocalnet.acceleration.families.base import Family
from nonlocalnet.ops.plan import recording

_observer: Callable[[nn.Module], Attend] | None = None


@contextlib.contextmanager
def observed(observer: Callable[[nn.Module], Attend]) -> Generator[None]:
    """Let accelerated modules, of any size, compute with observer(module) as `attend`."""
    global _observer
    before, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = before


def attend_for(module: nn.Module) -> Attend:
    """Return the `attend` with which a module computes."""
    return attend if _observer is None else _observer(module)


def takes(module: nn.Module, family: Family, args: tuple[Any, ...]) -> bool:
    """Tell whether a family computes this call; otherwise the block's own code does."""
    x = args[0] if args else None
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() == 0:
        return False
    if len(args) > family.arguments:
        return False
    if _observer is not None:
        return family.when(module, *args)
    if _noticed(module, family.bypassed):
        return False
    if not recording() and x.shape[0] * family.positions(x) ** 2 < family.small:
        return False
    return family.when(module, *args)


def hooked(module: nn.Module) -> bool:
    """Tell whether a module has hooks of its own."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _noticed(module: nn.Module, bypassed: tuple[str, ...]) -> bool:
    """Tell whether somebody would notice that these children are not called."""
    for name in bypassed:
        child = getattr(module, name, None)
        if child is not None:
            if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
                return True
            if any(hooked(part) for part in child.modules()):
                return True
    return False
