"""Functions as operators of torch: one node to compilers, whatever loops are inside.

By the library's plain interface: `torch.library.custom_op` would load the compiler on the first
call, which takes seconds and 130 MB. torch's FLOP counter sees one node too, and gets a formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

_LIBRARY = torch.library.Library("nonlocalnet", "FRAGMENT")


def operator(fake: Callable, flops: Callable[..., int]) -> Callable[[Callable], Callable]:
    """Register a function of (B, ...) tensors as `torch.ops.nonlocalnet.NAME`.

    `fake` gives the result's shape; `flops` counts what is multiplied and added, of the same
    arguments with shapes in place of tensors. vmap's axis is folded into the samples. The operator
    has no gradient of its own: it is called in an autograd.Function, which torch.func knows how to
    treat.
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

        def count(*arguments: Any, out_shape: Any = None, **rest: Any) -> int:
            return flops(*arguments, **rest)

        register_flop_formula(registered)(count)
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
