"""Change how a block computes, in place: a class becomes a subclass with another forward.

The object, its parameters, names, hooks and `isinstance` stay. The subclass is made again from the
original class and the family wherever a copy or a pickle needs it. A block of diffusers keeps its
class; it gets a processor whose class is a subclass of its processor's.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nonlocalnet.acceleration.calls import attend_for, takes
from nonlocalnet.acceleration.families.base import Family, FrameCausal

# subclass by original class, family and number of the input's axes
_subclasses: dict[tuple[type, str, int], type] = {}


def swap(module: Any, family: Family, axes: int) -> None:
    """Let a block compute by a family, for inputs with so many axes."""
    if family.by_processor:
        original = original_value(module.processor)
        processor = _empty(type(original), family.name, axes)
        vars(processor).update(vars(original), _original=original)
        module.set_processor(processor)
    else:
        module.__class__ = _subclass(original_class(type(module)), family, axes)


def unswap(module: Any) -> None:
    """Give a block its own class or processor back.

    Raises:
        ValueError: its class was changed again since.
    """
    if original_class(type(module)) is not type(module):
        module.__class__ = original_class(type(module))
    elif hasattr(getattr(module, "processor", None), "_original"):
        module.set_processor(module.processor._original)
    else:
        raise ValueError(
            f"a {type(module).__name__} must have the class that nl.accelerate gave it; its class "
            "was changed again, as fully_shard does: undo that first"
        )


def family_of(module: nn.Module) -> Family | None:
    """Return the family by which a module is accelerated, or None."""
    of_class = getattr(type(module), "_accelerated_by", None)
    return of_class or getattr(getattr(module, "processor", None), "_accelerated_by", None)


def original_class(kind: type) -> type:
    """Return the class that a module had before; any other class is returned as it is."""
    return vars(kind).get("_accelerated_from", kind)


def original_value(value: Any) -> Any:
    """Return the processor that an attribute held before; other values are returned as they are."""
    if isinstance(value, nn.Module) or original_class(type(value)) is type(value):
        return value
    return value._original


def _subclass(kind: type, family: Family, axes: int) -> type:
    key = (kind, family.name, axes)
    if key not in _subclasses:
        make = _processor if family.by_processor else _forward
        _subclasses[key] = _make(kind, family, axes, make(kind, family, axes))
    return _subclasses[key]


def _make(kind: Any, family: Family, axes: int, method: Callable[..., Any]) -> type:
    name = "__call__" if family.by_processor else "forward"

    def __reduce_ex__(self: Any, protocol: Any) -> tuple[Any, ...]:
        return _empty, (kind, family.name, axes), self.__getstate__()

    body = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__reduce_ex__": __reduce_ex__,
        name: method,
        "_accelerated_from": kind,
        "_accelerated_by": family,
    }
    return types.new_class(kind.__name__, (kind,), exec_body=lambda names: names.update(body))


def _forward(kind: Any, family: Family, axes: int) -> Callable[..., Any]:
    original = kind.forward

    @functools.wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs or not takes(self, family, args) or args[0].ndim != axes:
            return original(self, *args, **kwargs)
        return family.compute(attend_for(self), self, *args)

    return forward


def _processor(kind: Any, family: Family, axes: int) -> Callable[..., Any]:
    def __call__(
        self: Any,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | FrameCausal | None = None,
        temb: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        given = (hidden_states,) if temb is None else (hidden_states, temb)
        if isinstance(attention_mask, FrameCausal):
            return family.compute(attend_for(attn), attn, *given, frames=attention_mask)
        own = args or kwargs or encoder_hidden_states is not None or attention_mask is not None
        if own or not takes(attn, family, given):
            return kind.__call__(
                self, attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args,
                **kwargs,
            )  # fmt: skip
        return family.compute(attend_for(attn), attn, *given)

    return __call__


def _empty(kind: type, name: str, axes: int) -> Any:
    """Make an object for a copy or a pickle, whose state follows."""
    from nonlocalnet.acceleration.families import family_named

    subclass: Any = _subclass(kind, family_named(name), axes)
    return subclass.__new__(subclass)
