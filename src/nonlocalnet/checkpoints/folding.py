"""Fold batch norms into constants, for networks whose norms are frozen."""

from __future__ import annotations

from torch import Tensor

from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.translate import COUNTER, Translated

EPS = 1e-5  # as the official code folds


def fold_norms(translated: Translated) -> None:
    """Turn every batch norm of a file into a scale and a shift, as in evaluation mode.

    scale = gamma / √(var + eps), shift = beta - mean · scale. The frozen form of a non-local block
    has no norm, so there they are folded into W_z and its bias. Statistics become ignored keys.

    Source: official code, `convert_models`; paper, section 4.1 ("we freeze the BN layers").
    """
    tensors = translated.tensors
    for key in [key for key in tensors if key.endswith(".running_var")]:
        norm = key.removesuffix(".running_var")
        parts = [f"{norm}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
        if not all(part in tensors for part in parts):
            continue  # the missing part is reported later
        gamma, beta, mean, variance = (tensors[part] for part in parts)
        scale, shift = _constants(gamma, beta, mean, variance)
        gone = [*parts[2:], f"{norm}.{COUNTER}"]
        if ".non_local" in norm:
            block = norm.removesuffix(".norm")
            weight, bias = tensors[f"{block}.w_z.weight"], tensors.get(f"{block}.w_z.bias")
            tensors[f"{block}.w_z.weight"] = _product(weight, scale)
            tensors[f"{block}.w_z.bias"] = _affine(bias, scale, shift)
            gone += parts[:2]
        else:
            tensors[parts[0]], tensors[parts[1]] = scale, shift
        for name in gone:
            if name in tensors:
                del tensors[name]
                theirs = translated.names.pop(name, name)
                translated.ignored[theirs] = "folded into a scale and a shift: the norm is frozen"
    translated.fields |= {"norm": "frozen", "block_norm": None}


def _constants(
    gamma: LazyTensor, beta: LazyTensor, mean: LazyTensor, variance: LazyTensor
) -> tuple[LazyTensor, LazyTensor]:
    def scale() -> Tensor:
        return gamma.read().double() / (variance.read().double() + EPS).sqrt()

    def shift() -> Tensor:
        return beta.read().double() - mean.read().double() * scale()

    return LazyTensor(gamma.shape, gamma.dtype, scale), LazyTensor(beta.shape, beta.dtype, shift)


def _product(weight: LazyTensor, scale: LazyTensor) -> LazyTensor:
    return weight.map(
        weight.shape, lambda w: w.double() * scale.read().view(-1, *[1] * (len(weight.shape) - 1))
    )


def _affine(bias: LazyTensor | None, scale: LazyTensor, shift: LazyTensor) -> LazyTensor:
    def read() -> Tensor:
        return shift.read() if bias is None else bias.read() * scale.read() + shift.read()

    return LazyTensor(shift.shape, shift.dtype, read)
