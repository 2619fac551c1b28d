"""Decide where faster code can replace the call of a submodule without any visible difference.

Anything attached to a module or put in its place (hooks, adapters, parametrizations, pruning,
sharding, quantization) takes effect when the module is called. It is therefore called unless
nothing could notice the difference. `is_plain` alone decides this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as every_module

from nonlocalnet.ops.plan import recording

KnownTypes = Mapping[type[nn.Module], tuple[Callable, frozenset[str]]]

PLAIN_TENSORS = (Tensor, nn.Parameter)  # subclasses (sharded, quantized) compute differently
CALL = nn.Module.__call__
STATE = ("weight", "bias", "running_mean", "running_var")


def known_types(*types: type[nn.Module]) -> KnownTypes:
    """Record types as they are now, for `is_plain`: their forward, and names that they define."""
    return {kind: (kind.forward, frozenset((*dir(kind), *STATE))) for kind in types}


def is_plain(module: Any, known: KnownTypes) -> bool:
    """Tell whether a module is of a known type and nothing could notice that it is not called.

    False for subclasses; with hooks, on the module or on all modules (profilers, FLOP counters);
    with methods replaced on the module or its class; with weights that are not parameters (old
    spectral and weight norm, pruning) or of another tensor class; and during an export or trace,
    whose programs consist of modules.

    >>> import torch
    >>> linear, known = torch.nn.Linear(2, 2), known_types(torch.nn.Linear)
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
    # an attribute of the instance hides what its class has, such as forward or a parameter
    if not taken.isdisjoint(module.__dict__):
        return False
    for tensors in (module._parameters, module._buffers):
        for tensor in tensors.values():
            if tensor is not None and type(tensor) not in PLAIN_TENSORS:
                return False
    return True
