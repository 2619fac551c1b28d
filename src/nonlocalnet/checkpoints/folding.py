"""Batch norms folded into constants, for networks whose norms are frozen."""

from __future__ import annotations

from torch import Tensor

from nonlocalnet.checkpoints.converted import Converted
from nonlocalnet.checkpoints.lazy_tensor import Entry
from nonlocalnet.checkpoints.rules import COUNTER

EPS = 1e-5  # the official code's, in folding


def fold_norms(converted: Converted) -> None:
    """Turn every batch norm of a file into a scale and a shift, as in evaluation mode.

    scale = gamma / √(var + eps), shift = beta - mean · scale. In a non-local block, whose frozen
    form has no norm, they go into W_z and its bias. Statistics become ignored keys.

    Source: official code, `convert_models`; paper, section 4.1 ("we freeze the BN layers").
    """
    tensors = converted.tensors
    for key in [key for key in tensors if key.endswith(".running_var")]:
        norm = key.removesuffix(".running_var")
        parts = [f"{norm}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
        if not all(part in tensors for part in parts):
            continue  # the missing part will be reported
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
                theirs = converted.names.pop(name, name)
                converted.ignored[theirs] = "folded into a scale and a shift: the norm is frozen"
    converted.fields |= {"norm": "frozen", "block_norm": None}


def _constants(gamma: Entry, beta: Entry, mean: Entry, variance: Entry) -> tuple[Entry, Entry]:
    def scale() -> Tensor:
        return gamma.read().double() / (variance.read().double() + EPS).sqrt()

    def shift() -> Tensor:
        return beta.read().double() - mean.read().double() * scale()

    return Entry(gamma.shape, gamma.dtype, scale), Entry(beta.shape, beta.dtype, shift)


def _product(weight: Entry, scale: Entry) -> Entry:
    return weight.map(
        weight.shape, lambda w: w.double() * scale.read().view(-1, *[1] * (len(weight.shape) - 1))
    )


def _affine(bias: Entry | None, scale: Entry, shift: Entry) -> Entry:
    def read() -> Tensor:
        return shift.read() if bias is None else bias.read() * scale.read() + shift.read()

    return Entry(shift.shape, shift.dtype, read)
