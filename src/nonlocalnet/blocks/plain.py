"""Where a module may be passed by: its numbers read, and the same computed faster than it does.

Whatever is attached to a module or put in its place (hooks, adapters, parametrizations, pruning,
sharding, quantization) takes effect where the module is called. It is therefore called unless
nothing can tell the difference, and `is_plain` is the one place that decides so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as every_module

from nonlocalnet.ops.plan import recording

Kinds = Mapping[type[nn.Module], tuple[Callable, frozenset[str]]]

PLAIN_TENSORS = (Tensor, nn.Parameter)  # other classes (sharded, quantized) have ways of their own
CALL = nn.Module.__call__
STATE = ("weight", "bias", "running_mean", "running_var")


def kinds(*types: type[nn.Module]) -> Kinds:
    """Remember types as they are now, for `is_plain`."""
    return {kind: (kind.forward, frozenset((*dir(kind), *STATE))) for kind in types}


def is_plain(module: Any, known: Kinds) -> bool:
    """Tell whether a module is of a known type, and nothing could tell if it were not called.

    False for subclasses, hooks (the module's own, and those of all modules, as of profilers and
    FLOP counters), methods replaced on the module or its class, weights that are no parameters
    (old spectral and weight norm, pruning) or of another tensor class, and in an export or trace,
    whose programs consist of modules.

    >>> import torch
    >>> linear, known = torch.nn.Linear(2, 2), kinds(torch.nn.Linear)
    >>> is_plain(linear, known)
    True
    >>> handle = linear.register_forward_hook(print)
    >>> is_plain(linear, known)
    False
    """
    kind = type(module)
    if kind not in known or recording():
        return False
    forward, taken = known[kind]
    if kind.forward is not forward or kind.__call__ is not CALL:
        return False
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or every_module._global_forward_hooks
        or every_module._global_forward_pre_hooks
        or every_module._global_backward_hooks
        or every_module._global_backward_pre_hooks
    ):
        return False
    # an attribute of the module alone hides what its class has: forward, a parameter
    if not taken.isdisjoint(module.__dict__):
        return False
    for tensors in (module._parameters, module._buffers):
        for tensor in tensors.values():
            if tensor is not None and type(tensor) not in PLAIN_TENSORS:
                return False
    return True
