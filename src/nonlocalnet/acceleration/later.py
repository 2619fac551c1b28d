"""Attention weights as a second output, computed only when somebody uses them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from nonlocalnet.ops import affinity
from nonlocalnet.ops.plan import recording


def weights_later(theta: Tensor, phi: Tensor) -> Tensor:
    """Return softmax_j(θ_iᵀφ_j), (B, N, M), which takes memory from its first use on.

    Args:
        theta: (B, d, ...), the queries, a map.
        phi: (B, d, ...), the keys, a map.
    """
    theta, phi = theta.flatten(2).mT, phi.flatten(2).mT
    if recording() or torch.compiler.is_compiling():
        return _weights(theta, phi)
    return _Later.apply(theta, phi)


def _weights(theta: Tensor, phi: Tensor) -> Tensor:
    return affinity(theta, phi).to(theta.dtype)


class _Later(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor, phi: Tensor) -> Tensor:
        ctx.save_for_backward(theta, phi)
        ctx.set_materialize_grads(False)  # there is nothing to do for weights that nobody used
        return Weights(theta.detach(), phi.detach())

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:  # ty: ignore
        if grad is None:
            return None, None
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            return torch.autograd.grad(_weights(*inputs), inputs, grad)


class Weights(Tensor):
    """A tensor that is computed when an operator takes it; see `weights_later`."""

    _theta: Tensor
    _phi: Tensor
    _value: Tensor | None

    @staticmethod
    def __new__(cls, theta: Tensor, phi: Tensor) -> Weights:
        shape = (*theta.shape[:2], phi.shape[1])
        made: Any = Tensor._make_wrapper_subclass(
            cls, shape, dtype=theta.dtype, device=theta.device
        )
        made._theta, made._phi, made._value = theta, phi, None
        return made

    def value(self) -> Tensor:
        """Compute the weights, once."""
        if self._value is None:
            self._value = _weights(self._theta, self._phi)
        return self._value

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.numpy, Tensor.tolist, Tensor.__repr__, Tensor.__reduce_ex__):
            if args[0].requires_grad and func is Tensor.numpy:
                raise RuntimeError("these weights require gradients: call .detach().numpy()")
            return func(args[0].detach(), *args[1:], **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():  # results are plain tensors
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # ty: ignore
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        def plain(item: Any) -> Any:
            return item.value() if isinstance(item, Weights) else item

        return func(*tree_map(plain, args), **tree_map(plain, kwargs or {}))
