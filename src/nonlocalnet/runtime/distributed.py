"""torch.distributed helpers: rank, world size, collectives."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from nonlocalnet.runtime.device import pick_device
from nonlocalnet.runtime.log import console, status


class PeerLeft(RuntimeError):
    """Another process ended a shared computation early: it sent None instead of its results."""


@contextlib.contextmanager
def process_group(device: str = "auto", *, timeout: float = 1800) -> Generator[torch.device]:
    """Join torchrun's process group, and yield the device of this process.

    On GPUs each process uses the GPU of its LOCAL_RANK, with NCCL for GPU tensors and gloo for CPU
    tensors; on CPUs it uses gloo. Only rank 0 writes to the console. Without torchrun this is a
    single process, and no group is created.

    Args:
        device: as in `pick_device`.
        timeout: seconds to wait for a process that does not answer.

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
        dist.barrier()  # a process that leaves early closes the connections of the others
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return the rank of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_gather(value: Any) -> list[Any]:
    """Return the picklable values of all processes, in the order of ranks, in every process."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Return the picklable value of rank 0 in every process."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def all_reduce_mean(tensors: list[Tensor]) -> None:
    """Replace floating-point tensors by their means over the processes, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(world_size())


def all_reduce_sum(values: list[float], device: torch.device) -> list[float]:
    """Sum numbers over the processes, in float64, with one collective call."""
    if world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


@contextlib.contextmanager
def fail_together() -> Generator[None]:
    """End all processes if the block fails in one of them; the others would wait for it.

    All processes must enter the block, and it must not call collectives. A process that dies in it
    is not noticed.

    Raises:
        RuntimeError: the block failed in another process; the message has its reason.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    reasons = all_gather(None if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    for number, reason in enumerate(reasons):
        if reason is not None:
            raise RuntimeError(f"process {number} of this run failed: {reason}")


@contextlib.contextmanager
def explain_peer_failure(advice: str) -> Generator[None]:
    """Replace the errors of torch.distributed after the death of another process by a clear one.

    Args:
        advice: what to do, for the message.

    Raises:
        RuntimeError: another process died; the message says what to do. Other errors are unchanged.
    """
    try:
        yield
    except RuntimeError as error:
        disconnected = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        if world_size() > 1 and disconnected:
            raise RuntimeError(
                f"another process of this run died ({str(error).splitlines()[0][:200]}); {advice}"
            ) from error
        raise
