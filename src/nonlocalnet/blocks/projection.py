"""The projections of a block: 1x1x1 convolutions, as matrix products where nothing can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnet.blocks.plain import is_plain, kinds
from nonlocalnet.blocks.rows import project, unchanged
from nonlocalnet.ops.precision import wide, without_autocast

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
KNOWN = {dims: kinds(conv) for dims, conv in CONV.items()}


def is_product(convolution: Any, dims: int) -> bool:
    """Tell whether a matrix product may stand for it: a plain 1x1x1 convolution of `dims` axes."""
    return (
        is_plain(convolution, KNOWN[dims])
        and convolution.kernel_size == convolution.stride == (1,) * dims
        and convolution.padding == (0,) * dims
        and convolution.groups == 1
    )


def project_each(
    x: Tensor, *convolutions: Convolution, then: Callable[[Tensor], Tensor] = unchanged
) -> tuple[Tensor, ...]:
    """Project x (B, C, ...) by every convolution, and do what follows: -> (B, c, ...) of each.

    Plain ones are one product side by side; others are called.
    """
    plain = all(is_product(convolution, x.ndim - 2) for convolution in convolutions)
    biases = [c.bias for c in convolutions if c.bias is not None] if plain else []
    if not plain or len(biases) not in (0, len(convolutions)):
        return tuple(then(convolution(x)) for convolution in convolutions)
    weights = [convolution.weight.flatten(1) for convolution in convolutions]
    y = project(x, torch.cat(weights), torch.cat(biases) if biases else None)
    return then(y).split([w.shape[0] for w in weights], dim=1)


def project_to_score(x: Tensor, convolution: Convolution, w: Tensor) -> Tensor:
    """Compute w · (W x + b), one number a position, in float32: rounding it moves the relu."""
    if not is_product(convolution, x.ndim - 2):
        return score(convolution(x), w)
    bias = None if convolution.bias is None else (w @ convolution.bias).unsqueeze(0)
    with without_autocast(x.device.type):
        return project(x.to(wide(x.dtype)), (w @ convolution.weight.flatten(1)).unsqueeze(0), bias)


def score(y: Tensor, w: Tensor) -> Tensor:
    """Compute w · y in float32: (B, d, ...), (d,) -> (B, 1, ...)."""
    with without_autocast(y.device.type):
        return project(y.to(wide(y.dtype)), w.unsqueeze(0), None)
