"""Many processes under torchrun: which one this is, and what all of them say together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from nonlocalnet.errors import option
from nonlocalnet.runtime.device import pick_device
from nonlocalnet.runtime.log import console, status


@contextlib.contextmanager
def processes(device: str = "auto", *, timeout: float = 1800) -> Generator[torch.device]:
    """Join the processes that torchrun started, if it did; give this one's device.

    On GPUs each process takes the one of its LOCAL_RANK and speaks NCCL (gloo for what lies on the
    CPU); on CPUs gloo. Only the first process writes to the console. Without torchrun there is one
    process, and nothing happens.

    Args:
        device: as in `pick_device`.
        timeout: seconds after which a process that waits for a silent one gives up.

    Raises:
        ValueError: there is no such device, or fewer GPUs than processes on this machine.
    """
    found = pick_device(device)
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield found
        return
    backend = "gloo"
    if found.type == "cuda":
        local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(
                f"process {local} of this machine has no GPU, there are {gpus}: "
                f"torchrun --nproc-per-node {gpus}"
            )
        found = torch.device("cuda", local)
        torch.cuda.set_device(found)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    console.quiet = status.quiet = rank() > 0
    try:
        yield found
        dist.barrier()  # one that left early would take the others' connections with it
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Count the processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(value: Any) -> list[Any]:
    """Collect a picklable value of every process, in the order of ranks, in all of them."""
    values = [value] * size()
    if size() > 1:
        dist.all_gather_object(values, value)
    return values


def share(value: Any) -> Any:
    """Give every process the first one's picklable value."""
    values = [value]
    if size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def average(tensors: list[Tensor]) -> None:
    """Replace floating tensors by their means over the processes, in place."""
    if size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(size())


def total(values: list[float], device: torch.device) -> list[float]:
    """Add numbers over the processes, in float64, with one message."""
    if size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


@contextlib.contextmanager
def explain_dead_processes(out: object) -> Generator[None]:
    """Say in words when this process fails because another one is gone.

    Raises:
        RuntimeError: with what to do; other errors pass.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        if size() > 1 and lost:
            raise RuntimeError(
                f"another process of this run died ({str(error).splitlines()[0][:200]}); start "
                f"all again with {option('resume', True)}, checkpoints are in {out}"
            ) from error
        raise
