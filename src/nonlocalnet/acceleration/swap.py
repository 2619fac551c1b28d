"""Change how a module computes, in place: its class becomes a subclass with another forward.

The object, its parameters, names, hooks and `isinstance` stay. The subclass is made again from the
original class and the family wherever a copy or a pickle needs it.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Generator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as every_module

from nonlocalnet.acceleration.attend import Attend, attend
from nonlocalnet.acceleration.families.base import Family
from nonlocalnet.ops.plan import recording

# subclass by original class, family and number of the input's axes
_subclasses: dict[tuple[type, str, int], type] = {}

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


def swap(module: nn.Module, family: Family, axes: int) -> None:
    """Let a module compute its forward by a family, for inputs with so many axes."""
    module.__class__ = _subclass(original_class(type(module)), family, axes)


def unswap(module: nn.Module) -> None:
    """Give a module its own class back."""
    module.__class__ = original_class(type(module))


def family_of(module: nn.Module) -> Family | None:
    """Return the family by which a module is accelerated, or None."""
    return getattr(type(module), "_accelerated_by", None)


def original_class(kind: type) -> type:
    """Return the class that a module had before; any other class is returned as it is."""
    return vars(kind).get("_accelerated_from", kind)


def original_value(value: Any) -> Any:
    """Return what an attribute was before, such as a processor."""
    return getattr(value, "accelerated_from", value)


def takes(module: nn.Module, family: Family, axes: int, args: tuple[Any, ...]) -> bool:
    """Tell whether a family computes this call; otherwise the original does."""
    x = args[0] if args else None
    if not isinstance(x, Tensor) or len(args) > family.arguments or x.ndim != axes:
        return False
    if not x.is_floating_point() or x.numel() == 0 or _observed(module, family.bypassed):
        return False
    if (
        not recording()
        and _observer is None
        and x.shape[0] * family.positions(x) ** 2 < family.small
    ):
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


def _observed(module: nn.Module, bypassed: tuple[str, ...]) -> bool:
    """Tell whether somebody would notice that these children are not called."""
    for name in bypassed:
        child = getattr(module, name, None)
        if child is not None:
            if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
                return True
            if any(hooked(part) for part in child.modules()):
                return True
    return False


def _subclass(kind: type, family: Family, axes: int) -> type:
    key = (kind, family.name, axes)
    if key not in _subclasses:
        _subclasses[key] = _make(kind, family, axes)
    return _subclasses[key]


def _make(kind: Any, family: Family, axes: int) -> type:
    original = kind.forward

    @functools.wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs or not takes(self, family, axes, args):
            return original(self, *args, **kwargs)
        return family.compute(attend_for(self), self, *args)

    def __reduce_ex__(self: Any, protocol: Any) -> tuple[Any, ...]:
        return _empty, (kind, family.name, axes), self.__getstate__()

    body = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__reduce_ex__": __reduce_ex__,
        "forward": forward,
        "_accelerated_from": kind,
        "_accelerated_by": family,
    }
    return types.new_class(kind.__name__, (kind,), exec_body=lambda names: names.update(body))


def _empty(kind: type, name: str, axes: int) -> nn.Module:
    """Make an object for a copy or a pickle, whose state follows."""
    from nonlocalnet.acceleration.families import family_named

    subclass: Any = _subclass(kind, family_named(name), axes)
    return subclass.__new__(subclass)
