"""When attention is even, so that there is nothing to see, and what it has beyond that."""

from __future__ import annotations

from torch import Tensor

EVEN = 0.1  # of the attention may lie beside an even spread


def uneven(weights: Tensor, keys: int) -> Tensor:
    """Give the part of a row's attention that would have to move for all keys to have the same.

    u = ½ Σ_j |w_j - w̄| / max(Σ_j |w_j|, 1), w̄ = Σ_j w_j / M: 0 where all weights are alike, 1 - 1/M
    where one key has all. A row is even where u < 0.1. Blocks whose projections are as they were
    initialized, N(0, 0.01), stay below 0.01, and trained ones reach 0.4 to 0.9.

    Of the softmax forms the sum is 1, and u is the total variation from an even row. The other
    forms' weights add up to anything: those that have less than a tenth of what a softmax hands out
    count as even however they lie, as nothing is taken with them. Weights of both signs are uneven.

    >>> import torch
    >>> uneven(torch.tensor([[0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0], [1, -1, 1, -1]]), 4)
    tensor([0.0000, 0.7500, 0.5000])

    Args:
        weights: (..., N); 0 for a key that is not seen.
        keys: M, how many are seen.
    """
    weights = weights.double()
    mean = weights.sum(-1, keepdim=True) / keys
    apart = (weights - mean).abs().sum(-1) - (weights.shape[-1] - keys) * mean.abs().squeeze(-1)
    return (apart / 2 / weights.abs().sum(-1).clamp(min=1)).clamp(min=0).float()


def excess(weights: Tensor, keys: int) -> Tensor:
    """Give what each key has beyond an even share of all |weights|, with its sign; 0 for no more.

    >>> import torch
    >>> excess(torch.tensor([0.5, 0.25, -0.25, 0.0]), 4)
    tensor([0.2500, 0.0000, -0.0000, 0.0000])
    """
    size = weights.abs()
    return weights.sign() * (size - size.sum(-1, keepdim=True) / keys).clamp(min=0)
