"""SGD as in the paper: Nesterov momentum, no weight decay on norms, a step or cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split parameters into two groups: norms without weight decay, all others with it.

    Biases of convolutions and of fc have weight decay. Source: official code, `WEIGHT_DECAY_BN` 0.
    """
    norms: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in model.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._NormBase)
        (norms if is_norm else others).extend(module.parameters(recurse=False))
    return [
        {"params": others, "weight_decay": weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]


def make_optimizer(
    model: nn.Module, lr: float, *, momentum: float = 0.9, weight_decay: float = 1e-4
) -> torch.optim.SGD:
    """Create SGD with Nesterov momentum over `parameter_groups`. Source: official configs."""
    groups = parameter_groups(model, weight_decay)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def learning_rate(
    iteration: int,
    base: float,
    steps: Sequence[int],
    *,
    warmup: int = 0,
    factor: float = 0.1,
    cosine: int | None = None,
) -> float:
    """Return the learning rate at an iteration: base · factor^(steps passed), after linear warm-up.

    With `cosine`, the length of the run, it is base · (1 + cos(π · iteration / cosine)) / 2 instead
    (Loshchilov and Hutter 2017). Source of the steps: official configs (150,000 and 300,000 of
    400,000 iterations, no warm-up).

    >>> [learning_rate(i, 0.01, (150, 300)) for i in (0, 149, 150)]
    [0.01, 0.01, 0.001]
    >>> [round(learning_rate(i, 1.0, (), cosine=100), 3) for i in (0, 50, 100)]
    [1.0, 0.5, 0.0]
    """
    if iteration < warmup:
        return base * (iteration + 1) / warmup
    if cosine is not None:
        return base * (1 + math.cos(math.pi * iteration / cosine)) / 2
    return base * factor ** sum(iteration >= step for step in steps)
