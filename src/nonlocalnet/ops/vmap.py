"""The rule of our operators for torch.func.vmap."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.library import CustomOpDef


def fold_samples(operator: CustomOpDef) -> None:
    """Let an operator on (B, ...) tensors treat vmap's axis as more samples."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        def fold(value: Any, axis: int | None) -> Any:
            if not isinstance(value, Tensor):
                return value
            if axis is None:
                value, axis = value.expand(info.batch_size, *value.shape), 0
            return value.movedim(axis, 0).flatten(0, 1)

        out = operator(*map(fold, arguments, in_dims))
        if isinstance(out, Tensor):
            return out.unflatten(0, (info.batch_size, -1)), 0
        return tuple(t.unflatten(0, (info.batch_size, -1)) for t in out), (0,) * len(out)

    operator.register_vmap(rule)
