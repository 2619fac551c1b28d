"""Copy a block so that running the copy touches nothing of the original.

`copy.deepcopy` does not serve: it fails where an attribute has a graph (spectral norm after a
forward pass), and copies whatever hooks and caches refer to.
"""

from __future__ import annotations

import types
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from nonlocalnet.acceleration.swap import original_class, original_value

# hooks that compute a weight; all others observe or adapt, equally before and after
COMPUTING = (SpectralNorm, WeightNorm, BasePruningMethod)
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def isolated_copy(
    module: nn.Module,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    own: bool = True,
    seed: int = 0,
) -> Any:
    """Copy a module with random parameters and without hooks that observe.

    Random parameters make every part count: a last layer or a gate may be zero in a new network.

    Args:
        module: the block.
        device, dtype: of the copy's floating tensors.
        own: whether the copy computes by its own code, even if the block is accelerated.
        seed: of the parameters.
    """
    return _Copying(torch.device(device), dtype, own, seed).copy(module)


class _Copying:
    def __init__(self, device: torch.device, dtype: torch.dtype, own: bool, seed: int) -> None:
        self.device, self.dtype, self.own = device, dtype, own
        self.generator = torch.Generator().manual_seed(seed)
        self.done: dict[int, Any] = {}  # copies by the id of the original, which may be shared
        self.kept: list[Any] = []  # originals, so that no id is used twice

    def copy(self, value: Any) -> Any:
        """Copy tensors, modules and containers of them; other objects are shared."""
        if id(value) in self.done:
            return self.done[id(value)]
        value = original_value(value) if self.own else value
        self.kept.append(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        new: Any = value
        if isinstance(value, nn.Parameter):
            new = nn.Parameter(self._random(value), requires_grad=value.requires_grad)
        elif isinstance(value, Tensor):
            new = self._same(value)
        elif isinstance(value, dict):
            new = type(value)() if isinstance(value, OrderedDict) else {}
            new.update({key: self.copy(item) for key, item in value.items()})
        elif type(value) in (list, set, tuple):
            new = type(value)(self.copy(item) for item in value)
        elif isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
            return types.MethodType(value.__func__, self.copy(value.__self__))
        self.done[id(value)] = new
        return new

    def _module(self, module: nn.Module) -> nn.Module:
        new: Any = object.__new__(original_class(type(module)) if self.own else type(module))
        self.done[id(module)] = new
        for key, value in vars(module).items():
            if key in HOOKS:
                value = OrderedDict((i, h) for i, h in value.items() if isinstance(h, COMPUTING))
            elif "_hooks" in key:
                value = OrderedDict()
            elif key == "forward" and not isinstance(value, types.MethodType):
                continue  # an attribute that would run the original
            else:
                value = self.copy(value)
            new.__dict__[key] = value
        return new

    def _random(self, parameter: Tensor) -> Tensor:
        if not parameter.is_floating_point():
            return self._same(parameter)
        shape = parameter.shape
        if parameter.numel() == 1:  # a gate
            value = torch.full(shape, 0.75, dtype=torch.float64)
        elif len([n for n in shape if n > 1]) > 1:
            value = self._normal(shape) * (shape.numel() / shape[0]) ** -0.5
        else:  # factors of a norm, and biases
            value = 0.75 + 0.2 * self._normal(shape).clamp(-3, 3)
        return value.to(self.device, self.dtype)

    def _normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def _same(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        if tensor.is_meta:
            return torch.ones(tensor.shape, device=self.device, dtype=dtype)
        return tensor.detach().to(self.device, dtype, copy=True)
