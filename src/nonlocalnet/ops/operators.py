"""Register functions as torch operators, which compilers see as one node.

torch's low-level library interface is used, because `torch.library.custom_op` imports the compiler
on the first call, which takes seconds and 130 MB. torch's FLOP counter needs a formula for each
operator. They are registered when the counter is imported; importing it here would take 80 MB,
since it imports triton.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("nonlocalnet", "FRAGMENT")
_COUNTER = "torch.utils.flop_counter"
_FORMULAS: dict[Any, Callable[..., int]] = {}  # by operator


def operator(fake: Callable, flops: Callable[..., int]) -> Callable[[Callable], Callable]:
    """Register a function of (B, ...) tensors as `torch.ops.nonlocalnet.NAME`.

    The operator has no gradient of its own. It is called in an autograd.Function, which torch.func
    can transform. vmap's axis is folded into the batch.

    Args:
        fake: returns an empty result of the right shape and dtype, for the same arguments.
        flops: counts multiplications and additions, for arguments with shapes in place of tensors.
    """

    def register(function: Any) -> Callable:
        name = function.__name__
        _LIBRARY.define(
            name + torch.library.infer_schema(function, mutates_args=()),
            tags=(torch.Tag.pt2_compliant_tag,),
        )
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"nonlocalnet::{name}", fake, lib=_LIBRARY)
        registered = getattr(torch.ops.nonlocalnet, name)
        _FORMULAS[registered] = lambda *arguments, out_shape=None: flops(*arguments)
        if _COUNTER in sys.modules:
            _register_formulas()
        torch.library.register_vmap(
            f"nonlocalnet::{name}", _folding_samples(registered), lib=_LIBRARY
        )
        return registered

    return register


def _folding_samples(registered: Callable) -> Callable:
    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        def fold(value: Any, axis: int | None) -> Any:
            if not isinstance(value, Tensor):
                return value
            if axis is None:
                value, axis = value.expand(info.batch_size, *value.shape), 0
            return value.movedim(axis, 0).flatten(0, 1)

        out = registered(*map(fold, arguments, in_dims))
        if isinstance(out, Tensor):
            return out.unflatten(0, (info.batch_size, -1)), 0
        return tuple(t.unflatten(0, (info.batch_size, -1)) for t in out), (0,) * len(out)

    return rule


def _register_formulas() -> None:
    counter = sys.modules[_COUNTER]
    for registered, formula in _FORMULAS.items():
        if registered not in counter.flop_registry:
            counter.register_flop_formula(registered)(formula)


class _WhenCounterLoads(importlib.abc.MetaPathFinder):
    """Import hook that registers our formulas once torch's counter has been imported."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec: Any = importlib.util.find_spec(fullname)
        run = spec.loader.exec_module

        def run_and_register(module: Any) -> None:
            run(module)
            _register_formulas()

        spec.loader.exec_module = run_and_register
        return spec


if _COUNTER not in sys.modules:
    sys.meta_path.insert(0, _WhenCounterLoads())
