"""Non-local blocks put into a finished network, and taken out again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.errors import check_choice

CHILD = "non_local"
EXAMPLE_SIZE = {1: (64,), 2: (64, 64), 3: (8, 64, 64)}


@dataclass(frozen=True)
class Place:
    """A module of a network, by path, and the block that now stands after it.

    Attributes:
        path: the module's; the block is `path.non_local`.
        shape: of its output in the example, without the batch: (C, ...).
        inner_channels: d of the block.
        parameters: of the block.
    """

    path: str
    shape: tuple[int, ...]
    inner_channels: int
    parameters: int


class Inserted(tuple[Place, ...]):
    """The places of new blocks, in the network's order; str() is a table of them."""

    def __str__(self) -> str:
        rows = [("after", "output", "dims", "channels", "inner", "parameters")]
        for place in self:
            numbers = (len(place.shape) - 1, place.shape[0], place.inner_channels, place.parameters)
            output = " x ".join(map(str, place.shape))
            rows.append((place.path, output, *(f"{n:,}" for n in numbers)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )


class InsertedBlock(NonLocalBlock):
    """A block that `add_non_local` put in, so that `remove_non_local` knows it."""

    # None in an nn.Sequential. Kept here also because pickling it keeps the hook's number taken:
    # without it, another hook in the process that loads the network could replace this one.
    hook: RemovableHandle | None = None

    def _get_name(self) -> str:
        return NonLocalBlock.__name__


def add_non_local(
    network: nn.Module,
    after: str | Sequence[str],
    *,
    example: Tensor | tuple[Any, ...] | None = None,
    verbose: bool = True,
    **options: Any,
) -> Inserted:
    """Put a non-local block after each of the named modules, in place.

    Until they are trained the blocks are the identity. The names of the network's own weights stay,
    so its checkpoints load as before (with `strict=False` once the blocks are in); a block's
    are `layer2.1.non_local.theta.weight` and so on.

    Args:
        network: any network; not compiled or wrapped for many GPUs yet, which comes after.
        after: module paths as in `network.named_modules()`; each part may be a pattern:
            "layer3.*" is layer3.0, layer3.1, ... A module with two paths gets one block.
        example: a tensor or a tuple of arguments that the network takes. It runs once, in
            evaluation mode, to see what the modules give, which must be (B, C, ...): channels
            first. None is zeros for its first convolution, 64 positions a side and 8 frames.
        verbose: print the places.
        options: of `NonLocalBlock`: pairwise, subsample, ... `channels` and `dims` are found.

    Returns:
        The places: a tuple whose str() is a table.

    Raises:
        ValueError: no such module, a place that cannot take a block, a network that does not run
            on the example, an option that does not fit. The network is then as it was.

    Source: paper, section 4 ("we convert an existing network into non-local").

    In an nn.Sequential the block is one more child at the end, which its len() counts; after any
    other module, a forward hook runs it. `torch.fx` must take a block whole:
    `tracer_kwargs={"leaf_modules": [nl.NonLocalBlock]}` in torchvision's feature extraction.

    >>> import torch, nonlocalnet as nl
    >>> conv = torch.nn.Sequential(torch.nn.Conv1d(3, 32, 5, padding=2), torch.nn.ReLU())
    >>> network = torch.nn.Sequential(conv, torch.nn.Conv1d(32, 10, 1))
    >>> places = nl.add_non_local(network, "0", pairwise="dot_product")
    after  output   dims  channels  inner  parameters
    0      32 x 64     1        32     16       2,192
    >>> network[0].non_local.pairwise
    'dot_product'
    >>> nl.remove_non_local(network)
    ('0',)
    """
    for name in ("channels", "dims"):
        if name in options:
            raise ValueError(
                f"{name} is found from what each module gives; got {name}={options[name]!r}: "
                "leave it out"
            )
    _check_bare(network)
    places = _find(network, [after] if isinstance(after, str) else after)
    outputs = _run_once(network, places, example)
    blocks = {
        path: InsertedBlock(output.shape[1], output.ndim - 2, **options)
        .to(output)
        .train(places[path].training)
        for path, output in outputs.items()
    }
    for path, block in blocks.items():
        places[path].add_module(CHILD, block)
        if not _runs_new_children(places[path]):
            block.hook = places[path].register_forward_hook(_run_block)
    inserted = Inserted(
        Place(
            path,
            tuple(outputs[path].shape[1:]),
            block.inner_channels,
            sum(parameter.numel() for parameter in block.parameters()),
        )
        for path, block in blocks.items()
    )
    if verbose:
        print(inserted)
    return inserted


def remove_non_local(network: nn.Module) -> tuple[str, ...]:
    """Take out the blocks that `add_non_local` put into a network or what it was copied from.

    Blocks that stand there otherwise stay.

    Returns:
        Paths of the modules that they stood after; none if there was no such block.
    """
    removed = []
    for path, module in list(network.named_modules()):
        block = getattr(module, CHILD, None)
        if isinstance(block, InsertedBlock):
            if block.hook is not None:
                block.hook.remove()
            delattr(module, CHILD)
            removed.append(path)
    return tuple(removed)


# A function of this module and of the module it is called with, so that a network can be copied,
# pickled and replicated with it.
def _run_block(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return getattr(module, CHILD)(output)


def _runs_new_children(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward


def _check_bare(network: nn.Module) -> None:
    """Refuse what would go on without the new blocks, or without their gradients."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule)
    for module in network.modules():
        compiled = hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        if compiled or isinstance(module, wrappers):
            given = "a compiled one" if compiled else type(module).__name__
            raise ValueError(
                f"network must not be compiled or wrapped yet; got {given}: "
                "add the blocks first, to the network within"
            )


def _find(network: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Find the modules that the patterns name, by path and in the network's order."""
    blocks = [module for module in network.modules() if isinstance(module, InsertedBlock)]
    ours = {id(module) for block in blocks for module in block.modules()}
    paths = {
        path: module
        for path, module in network.named_modules(remove_duplicate=False)
        if path and id(module) not in ours
    }
    places: dict[int, tuple[str, nn.Module]] = {}
    for pattern in patterns:
        if not any(_matches(path, pattern) for path in paths):
            check_choice("after", pattern, paths)
    for path, module in paths.items():
        if any(_matches(path, pattern) for pattern in patterns):
            places.setdefault(id(module), (path, module))
    if not places:
        raise ValueError("after must name at least one module; got none")
    for path, module in places.values():
        if isinstance(getattr(module, CHILD, None), InsertedBlock):
            _refuse(path, "one stands there; nl.remove_non_local(network) takes out all")
        if hasattr(module, CHILD):
            _refuse(path, f"it has something else named {CHILD!r}")
    return dict(places.values())


def _matches(path: str, pattern: str) -> bool:
    names, globs = path.split("."), pattern.split(".")
    return len(names) == len(globs) and all(map(fnmatchcase, names, globs))


class PlaceError(ValueError):
    """A place that cannot take a block."""


def _refuse(path: str, why: str) -> NoReturn:
    raise PlaceError(f"no block can stand after {path!r}: {why}")


class _Probe(nn.Module):
    """What is where the block will be, to see that nothing but the hook would run it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse(self.path, "its forward goes over all its children, and would take in the block")


def _run_once(
    network: nn.Module, places: dict[str, nn.Module], example: Tensor | tuple[Any, ...] | None
) -> dict[str, Tensor]:
    """Run the network on the example and leave it as it was; empty tensors like the outputs."""
    if example is None:
        example = _zeros(network)
    arguments = example if isinstance(example, tuple) else (example,)
    seen: dict[str, Tensor] = {}

    def look_at(path: str):
        def look(module: nn.Module, args: object, output: object) -> None:
            output = _check_output(path, output)
            known = seen.setdefault(path, output)
            if _kind(known) != _kind(output):
                shapes = f"{tuple(known.shape)} and {tuple(output.shape)}"
                _refuse(path, f"it runs several times, and gives {shapes}")

        return look

    with ExitStack() as undo:
        for module in network.modules():
            undo.callback(setattr, module, "training", module.training)
            module.training = False  # not by eval(), which a network may have made its own
        for path, place in places.items():
            undo.enter_context(place.register_forward_hook(look_at(path)))
            if not _runs_new_children(place):
                place.add_module(CHILD, _Probe(path))
                undo.callback(delattr, place, CHILD)
        undo.enter_context(torch.no_grad())
        cuda = {parameter.device for parameter in network.parameters() if parameter.is_cuda}
        undo.enter_context(torch.random.fork_rng(devices=cuda))
        try:
            buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
            torch.func.functional_call(network, buffers, arguments)
        except PlaceError:
            raise
        except Exception as error:
            shapes = [tuple(a.shape) if isinstance(a, Tensor) else a for a in arguments]
            raise ValueError(
                f"network must run on the example; got an error on {', '.join(map(str, shapes))}: "
                "pass example=, a tensor or a tuple of arguments that it takes"
            ) from error
    for path, place in places.items():
        if path not in seen:
            inside = [f"{path}.{name}" for name, _ in place.named_children()]
            hint = f"; name a module within, such as {inside[-1]!r}" if inside else ""
            _refuse(path, f"it did not run in the example{hint}")
    return {path: seen[path] for path in places}


def _zeros(network: nn.Module) -> Tensor:
    """Make an input for the network's first convolution."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            size = EXAMPLE_SIZE[len(module.kernel_size)]
            return module.weight.new_zeros(1, module.in_channels, *size)
    raise ValueError(
        "network has no convolution to make an example for: "
        "pass example=, a tensor or a tuple of arguments that it takes"
    )


def _check_output(path: str, output: object) -> Tensor:
    """Give an empty tensor like the output, if a block can take that."""
    if not isinstance(output, Tensor):
        _refuse(path, f"it gives a {type(output).__name__}, not a tensor")
    if not 3 <= output.ndim <= 5:
        _refuse(
            path,
            "it must give (B, C, T), (B, C, H, W) or (B, C, T, H, W); "
            f"it gives {tuple(output.shape)}",
        )
    if not output.is_floating_point():
        _refuse(path, f"it must give floating numbers; it gives {output.dtype}")
    return output.new_empty(()).expand(output.shape)


def _kind(output: Tensor) -> tuple[object, ...]:
    return output.ndim, output.shape[1], output.dtype, output.device
