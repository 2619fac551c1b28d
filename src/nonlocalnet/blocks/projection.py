"""Projections of a block: 1x1x1 convolutions, as matrix products where the result is the same.

A matrix product reads channels first or last without a copy, and writes its result in the same
memory format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnet.blocks.plain import is_plain, known_types
from nonlocalnet.blocks.pooling import unchanged
from nonlocalnet.ops.precision import autocast_dtype, product_dtype, wide, without_autocast

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
KNOWN = {dims: known_types(conv) for dims, conv in CONV.items()}


def is_product(convolution: Any, dims: int) -> bool:
    """Tell whether this is a plain 1x1x1 convolution, which a matrix product can replace."""
    return (
        is_plain(convolution, KNOWN[dims])
        and convolution.kernel_size == convolution.stride == (1,) * dims
        and convolution.padding == (0,) * dims
        and convolution.groups == 1
    )


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a 1x1x1 convolution as one matrix product: x (B, C, ...), weight (k, C), bias (k,).

    The result has a convolution's dtype, also under autocast; the product is computed in the
    dtype that is fast on the device.
    """
    device, size = x.device.type, x.shape[2:]
    result = autocast_dtype(x.dtype, device)
    dtype = product_dtype(result, device)
    with without_autocast(device):
        flat = x.flatten(2).to(dtype)  # (B, C, N)
        matrix = weight.to(dtype).expand(x.shape[0], -1, -1)
        if flat.stride(1) == 1 and flat.shape[1] > 1:  # channels last
            flat, matrix = flat.mT, matrix.mT
            y = _affine(flat, matrix, bias).mT
        else:
            y = _affine(matrix, flat, None if bias is None else bias.unsqueeze(1))
    return y.to(result).unflatten(2, size)


def _affine(x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(x, y) if bias is None else torch.baddbmm(bias.to(x.dtype), x, y)


def project_each(
    x: Tensor, *convolutions: Convolution, then: Callable[[Tensor], Tensor] = unchanged
) -> tuple[Tensor, ...]:
    """Apply each convolution to x (B, C, ...), and `then` to the results: -> (B, c, ...) of each.

    Plain convolutions are computed together in one product; others are called.
    """
    plain = all(is_product(convolution, x.ndim - 2) for convolution in convolutions)
    biases = [c.bias for c in convolutions if c.bias is not None] if plain else []
    if not plain or len(biases) not in (0, len(convolutions)):
        return tuple(then(convolution(x)) for convolution in convolutions)
    weights = [convolution.weight.flatten(1) for convolution in convolutions]
    y = project(x, torch.cat(weights), torch.cat(biases) if biases else None)
    return then(y).split([w.shape[0] for w in weights], dim=1)


def project_to_score(x: Tensor, convolution: Convolution, w: Tensor) -> Tensor:
    """Compute w (W x + b), one number per head and position: x (B, C, ...), w (heads, d).

    In float32, since rounding would move the relu.
    """
    if not is_product(convolution, x.ndim - 2):
        return score(convolution(x), w)
    bias = None if convolution.bias is None else w @ convolution.bias
    with without_autocast(x.device.type):
        return project(x.to(wide(x.dtype)), w @ convolution.weight.flatten(1), bias)


def score(y: Tensor, w: Tensor) -> Tensor:
    """Compute w y in float32: (B, d, ...), (heads, d) -> (B, heads, ...)."""
    with without_autocast(y.device.type):
        return project(y.to(wide(y.dtype)), w, None)
