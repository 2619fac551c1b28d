"""Run a network on an example and see what its blocks compare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnet.acceleration.attend import Attend, Operands, attend
from nonlocalnet.acceleration.calls import observed
from nonlocalnet.acceleration.swap import family_of
from nonlocalnet.blocks.non_local_block import NonLocalBlock


def compared(network: nn.Module, example: object) -> dict[str, Operands]:
    """Run a network in evaluation mode and return what its blocks compare.

    Buffers, modes and the random state stay as they are.

    Args:
        network: any network.
        example: a tuple holds its arguments, a dictionary its keyword arguments, and anything else
            is its only argument.

    Returns:
        By module path, of each `NonLocalBlock` and accelerated block that ran; of several calls of
        an accelerated block, the largest.

    Raises:
        ValueError: the network does not run on the example.
    """
    args, kwargs = arguments(example)
    ours = {path: m for path, m in network.named_modules() if isinstance(m, NonLocalBlock)}
    kept: dict[str, Operands] = {}

    def keep(path: str) -> Callable[..., None]:
        return lambda block, inputs: kept.update({path: _of_block(block, *inputs)})

    handles = [block.register_forward_pre_hook(keep(path)) for path, block in ours.items()]
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        with quietly(network), watching(network) as seen:
            torch.func.functional_call(network, buffers, args, kwargs)
    except Exception as error:
        raise ValueError(
            "network must run on the example; pass several arguments as a tuple or a dictionary"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return seen | kept


def _of_block(block: NonLocalBlock, x: Tensor, mask: Tensor | None = None) -> Operands:
    theta, phi, g, options = block.embed(x, mask)
    size, options = tuple(x.shape[2:]), {"pairwise": block.pairwise, **options}
    return Operands(theta, phi, g, options, size, block.key_size(size), block.extent)


def accelerated_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """Return the accelerated blocks of a network, by module path."""
    return {path: m for path, m in network.named_modules() if family_of(m) is not None}


@contextlib.contextmanager
def watching(network: nn.Module) -> Generator[dict[str, Operands]]:
    """Yield a dictionary of what accelerated blocks compute, by path, filled by forward passes."""
    paths = {id(module): path for path, module in accelerated_blocks(network).items()}
    seen: dict[str, Operands] = {}

    def recorder(module: nn.Module) -> Attend:
        def record(theta: Tensor, phi: Tensor, g: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            operands, path = Operands.of(theta, phi, g, *args, **kwargs), paths.get(id(module))
            if path is not None and operands.pairs > (seen[path].pairs if path in seen else -1):
                seen[path] = operands
            return attend(theta, phi, g, *args, **kwargs)

        return record

    with observed(recorder):
        yield seen


@contextlib.contextmanager
def quietly(network: nn.Module) -> Generator[None]:
    """Set every module to evaluation, without gradients, and keep modes and the random state."""
    modes = {module: module.training for module in network.modules()}
    cuda = {p.device for p in network.parameters() if p.is_cuda}
    try:
        for module in modes:
            module.training = False  # not by eval(), which a network may override
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def arguments(example: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split an example into arguments and keyword arguments."""
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example,), {}
