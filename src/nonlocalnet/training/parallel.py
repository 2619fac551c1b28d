"""A network spread over processes, or over time: DDP, FSDP2, recomputed activations."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import warnings
from collections.abc import Generator
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from nonlocalnet.errors import option
from nonlocalnet.runtime.distributed import rank, size

WHOLE = StateDictOptions(full_state_dict=True)
STAGE = re.compile(r"(^res|\.layer)\d$")
ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True)  # in the first process alone


def spread(model: nn.Module, device: torch.device, *, parallel: str, sync_norm: bool) -> nn.Module:
    """Let the processes train one network together; alone, it stays as it is.

    Gradients are means over the processes. `parallel` "ddp": each holds all weights; "fsdp": each
    a part of them, gathered block by block when they are needed (`fully_shard`).

    Raises:
        ValueError: synchronized norms on a CPU, for which torch has none.
    """
    if sync_norm:
        if device.type == "cpu":
            raise ValueError(
                f"{option('sync_norm')} needs GPUs: torch synchronizes no batch norms on a CPU"
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if size() == 1:
        return model
    if parallel == "ddp":
        # of 1x1x1 kernels, whose strides are a matter of taste
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # batch norms are their own process's, as in the official code
        known = inspect.signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {sync: False, "gradient_as_bucket_view": True}
        return DistributedDataParallel(model, **options)
    mesh = init_device_mesh(device.type, (size(),))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


@contextlib.contextmanager
def gathering(model: nn.Module, last: bool) -> Generator[None]:
    """Exchange gradients in the last backward pass of an update only."""
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    yield


def recompute_blocks(model: nn.Module) -> None:
    """Keep only the inputs of a network's blocks for the backward pass, which computes the rest
    again: less memory for more time."""
    for block in _blocks(model):
        block.forward = functools.partial(
            checkpoint,
            block.forward,
            use_reentrant=False,
            context_fn=lambda block=block: (contextlib.nullcontext(), _quiet_norms(block)),
        )


def _blocks(model: nn.Module) -> list[nn.Module]:
    """List the residual and non-local blocks of the stages: res2, ..., a detector's layer1, ..."""
    stages = [stage for name, stage in model.named_modules() if STAGE.search(name)]
    return [block for stage in stages for block in stage.children()]


@contextlib.contextmanager
def _quiet_norms(block: nn.Module) -> Generator[None]:
    """Leave running averages alone while a block is computed for the second time."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, value in zip(norms, momentum, strict=True):
            norm.momentum = value


def model_state(model: nn.Module) -> dict[str, Any]:
    """Give all of a network's tensors, in every process, by the names of the plain network."""
    return get_model_state_dict(model, options=WHOLE)


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Give what a checkpoint holds of network and optimizer, on the CPU, in the first process.

    The same for any number of processes and either kind of spreading.
    """
    state = {
        "model": get_model_state_dict(model, options=ON_CPU),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=ON_CPU),
    }
    return state if rank() == 0 else {}


def set_training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Put back what `training_state` gave, in every process."""
    set_model_state_dict(model, state["model"], options=WHOLE)
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=WHOLE)
