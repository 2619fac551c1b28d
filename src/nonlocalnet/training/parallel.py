"""Distributed training (DDP, FSDP2) and recomputed activations.

torch's modules for sharding take seconds to import; a run imports them when it first uses them.
"""

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
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from nonlocalnet.errors import option
from nonlocalnet.runtime.distributed import rank, world_size

STAGE = re.compile(r"(^res|\.layer)\d$")


def parallelize(
    model: nn.Module, device: torch.device, *, parallel: str, sync_norm: bool
) -> nn.Module:
    """Wrap a network for distributed training; a single process keeps it as it is.

    Gradients are averaged over the processes.

    Args:
        model: on the device.
        device: where to compute.
        parallel: "ddp": each process holds all weights; "fsdp": each holds a shard of them, and
            blocks are gathered when they are needed (`fully_shard`).
        sync_norm: whether batch norms use the statistics of all processes.

    Raises:
        ValueError: synchronized norms on a CPU, which torch does not support.
    """
    if sync_norm:
        if device.type == "cpu":
            raise ValueError(
                f"{option('sync_norm')} needs GPUs: torch synchronizes no batch norms on a CPU"
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if world_size() == 1:
        return model
    if parallel == "ddp":
        # a warning about 1x1x1 kernels, whose strides are ambiguous
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # each process has its own batch norms, as in the official code
        known = inspect.signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {sync: False, "gradient_as_bucket_view": True}
        return DistributedDataParallel(model, **options)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


@contextlib.contextmanager
def gathering(model: nn.Module, last: bool) -> Generator[None]:
    """Exchange gradients only in the last backward pass of an update."""
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
        return
    if world_size() > 1:
        from torch.distributed.fsdp import FSDPModule

        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(last)
    yield


def recompute_blocks(model: nn.Module) -> None:
    """Save memory: keep only the inputs of blocks for the backward pass, recompute the rest."""
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
    """Keep the running averages unchanged while a block is recomputed."""
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
    """Return all tensors of a network, in every process, by their names in the plain network."""
    from torch.distributed.checkpoint import state_dict

    options = state_dict.StateDictOptions(full_state_dict=True)
    return state_dict.get_model_state_dict(model, options=options)


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of network and optimizer for a checkpoint, on the CPU, in rank 0.

    It is the same for any number of processes, with DDP and with FSDP.
    """
    from torch.distributed.checkpoint import state_dict

    # with cpu_offload, only the first process gets the whole state
    options = state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = {
        "model": state_dict.get_model_state_dict(model, options=options),
        "optimizer": state_dict.get_optimizer_state_dict(model, optimizer, options=options),
    }
    return state if rank() == 0 else {}


def set_training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Restore what `training_state` returned, in every process."""
    from torch.distributed.checkpoint import state_dict

    options = state_dict.StateDictOptions(full_state_dict=True)
    state_dict.set_model_state_dict(model, state["model"], options=options)
    state_dict.set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
