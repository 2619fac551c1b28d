"""Precise batch norm: statistics averaged over many batches, instead of running averages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nonlocalnet.runtime.distributed import all_reduce_mean


def average_statistics(model: nn.Module) -> None:
    """Average the running statistics of the norms over all processes."""
    all_reduce_mean([buffer for name, buffer in model.named_buffers() if "running_" in name])


@torch.no_grad()
def set_precise_statistics(model: nn.Module, batches: Iterable[tuple[Any, ...]]) -> None:
    """Set the statistics of a network's batch norms from several batches.

    mean = 1/n Σ_b E_b[x], var = 1/n Σ_b E_b[x²] - mean², over the n batches of all processes. Each
    batch is normalized with its own statistics, as in training; weights do not change.

    Source: official code, `lib/utils/bn_helper.py` (200 batches before every test and checkpoint).

    Args:
        model: on the device of the batches.
        batches: arguments of the network in training, such as (clips (B, 3, T, H, W),); as many in
            every process.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    sums = {norm: torch.zeros(2, norm.num_features, dtype=torch.float64) for norm in norms}

    def add(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float()
        dims = [0, *range(2, x.ndim)]
        assert isinstance(norm, _BatchNorm)
        sums[norm] += torch.stack([x.mean(dims), x.square().mean(dims)]).double().cpu()

    handles = [norm.register_forward_pre_hook(add) for norm in norms]
    was_training = model.training
    model.train()
    count = 0
    try:
        for inputs in batches:
            model(*inputs)
            count += 1
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    if count:
        for norm, total in sums.items():
            total /= count
            all_reduce_mean([total])
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(total[0])
            norm.running_var.copy_((total[1] - total[0].square()).clamp(min=0))
