"""Insert non-local blocks into an existing network, and remove them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.blocks.probe import (
    CHILD,
    Evidence,
    probe,
    refuse,
    refuse_calls,
    runs_new_children,
)
from nonlocalnet.errors import check_choice

Layout = Literal["channels_first", "channels_last", "tokens", "tokens_first"]

LAYOUTS: dict[str, tuple[int, int]] = {  # batch axis, channel axis
    "channels_first": (0, 1),
    "channels_last": (0, -1),
    "tokens": (0, -1),
    "tokens_first": (1, -1),
}


@dataclass(frozen=True)
class Place:
    """A module of a network and the block that was inserted after it.

    Attributes:
        path: path of the module; the block is `path.non_local`.
        shape: shape of the module's output for the example, without the batch.
        layout: "channels_first" (C, ...), "channels_last" (..., C), "tokens" (N, C), or
            "tokens_first", tokens followed by the batch axis.
        channels: C.
        inner_channels: d of the block.
        parameters: number of parameters of the block.
    """

    path: str
    shape: tuple[int, ...]
    layout: str
    channels: int
    inner_channels: int
    parameters: int


class Inserted(tuple[Place, ...]):
    """Places of new blocks, in the order of the network; str() gives a table."""

    def __str__(self) -> str:
        rows = [("after", "output", "layout", "dims", "channels", "inner", "parameters")]
        for place in self:
            dims = len(place.shape) - 1
            numbers = (dims, place.channels, place.inner_channels, place.parameters)
            output = " x ".join(map(str, place.shape))
            rows.append((place.path, output, place.layout, *(f"{n:,}" for n in numbers)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )


class InsertedBlock(NonLocalBlock):
    """A block that `add_non_local` inserted and `remove_non_local` recognizes.

    For layouts other than channels first, hooks convert its input and output.
    """

    layout: str = "channels_first"
    # Handles must be pickled with the network: they reserve the ids of their hooks. Otherwise new
    # hooks in the process that loads the network could replace these.
    hooks: tuple[RemovableHandle, ...] = ()

    def set_layout(self, layout: str) -> None:
        """Accept and return maps of this layout."""
        self.layout = layout
        if LAYOUTS[layout] != (0, 1):
            self.hooks = (
                self.register_forward_pre_hook(_to_channels_first),
                self.register_forward_hook(_from_channels_first),
            )

    def extra_repr(self) -> str:
        layout = "" if LAYOUTS[self.layout] == (0, 1) else f", layout={self.layout!r}"
        return super().extra_repr() + layout

    def _get_name(self) -> str:
        return NonLocalBlock.__name__


def add_non_local(
    network: nn.Module,
    after: str | Sequence[str],
    *,
    example: object = None,
    layout: Layout | None = None,
    verbose: bool = True,
    **options: Any,
) -> Inserted:
    """Insert a non-local block after each of the named modules, in place.

    Until they are trained, the blocks are the identity. The network's own weights keep their names,
    so its checkpoints load as before (with `strict=False` once the blocks are in). The weights of a
    block are `layer2.1.non_local.theta.weight` and so on.

    Args:
        network: any network. Compile it or wrap it for many GPUs afterwards.
        after: module paths as in `network.named_modules()`. Each part may be a pattern: "layer3.*"
            is layer3.0, layer3.1, ... A module with two paths gets one block.
        example: an input of the network: a tuple holds its arguments, a dictionary its keyword
            arguments, and anything else (a tensor, a list of tensors) is its only argument; write
            `({...},)` if that is a dictionary. The network runs in evaluation mode on the example
            and on shorter or longer ones, which shows the shapes of its modules' outputs. None
            makes zeros for its first convolution, with sides of 64 and 8 frames.
        layout: layout of the modules' outputs: "channels_first" (B, C, ...), "channels_last"
            (B, ..., C), "tokens" (B, N, C) or "tokens_first" (N, B, C). None finds it: axes that
            change with the size of the input are positions, and the constant one is channels.
            Pass it for tokens, which get a 1-D block, and where an error asks for it.
        verbose: print the places.
        options: options of `NonLocalBlock`, such as pairwise and subsample; `channels` and `dims`
            are found.

    Returns:
        The places: a tuple whose str() is a table.

    Raises:
        ValueError: there is no such module, a module cannot be followed by a block, the network
            does not run on the example, or an option does not fit. The network is unchanged then.

    Source: paper, section 4 ("we convert an existing network into non-local").

    In an nn.Sequential the block becomes the last child, which len() counts; after any other
    module, a forward hook runs it. `torch.fx` must treat a block as a leaf: pass
    `tracer_kwargs={"leaf_modules": [nl.NonLocalBlock]}` to torchvision's feature extraction.

    >>> import torch, nonlocalnet as nl
    >>> conv = torch.nn.Sequential(torch.nn.Conv1d(3, 32, 5, padding=2), torch.nn.ReLU())
    >>> network = torch.nn.Sequential(conv, torch.nn.Conv1d(32, 10, 1))
    >>> places = nl.add_non_local(network, "0", pairwise="dot_product")
    after  output   layout          dims  channels  inner  parameters
    0      32 x 64  channels_first     1        32     16       2,192
    >>> network[0].non_local.pairwise
    'dot_product'
    >>> nl.remove_non_local(network)
    ('0',)
    """
    for name in ("channels", "dims"):
        if name in options:
            raise ValueError(
                f"{name} is found from each module's output; got {name}={options[name]!r}: "
                "leave it out"
            )
    if layout is not None:
        check_choice("layout", layout, LAYOUTS)
    _check_unwrapped(network)
    places = _find(network, [after] if isinstance(after, str) else after)
    evidence = probe(network, places, example)
    layouts = {path: _find_layout(path, known, layout) for path, known in evidence.items()}
    blocks = {path: _make(evidence[path].outputs[0], layouts[path], options) for path in places}
    for path, block in blocks.items():
        block.train(places[path].training)
        places[path].add_module(CHILD, block)
        if not runs_new_children(places[path]):
            block.hooks += (places[path].register_forward_hook(_run_block),)
    inserted = Inserted(_describe(path, b, evidence[path]) for path, b in blocks.items())
    if verbose:
        print(inserted)
    return inserted


def remove_non_local(network: nn.Module) -> tuple[str, ...]:
    """Remove all blocks that `add_non_local` inserted, also from copies of the network.

    Blocks that are part of the network's own definition stay.

    Returns:
        Paths of the modules that had a block; empty if there was none.
    """
    removed = []
    for path, module in list(network.named_modules()):
        block = getattr(module, CHILD, None)
        if isinstance(block, InsertedBlock):
            for hook in block.hooks:
                hook.remove()
            delattr(module, CHILD)
            removed.append(path)
    return tuple(removed)


# Hooks are module-level functions that depend only on the module they are called with, so that a
# network can be copied, pickled and replicated with them.
def _run_block(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return getattr(module, CHILD)(output)


def _to_channels_first(block: InsertedBlock, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, *rest = args
    return x.movedim(LAYOUTS[block.layout], (0, 1)), *rest


def _from_channels_first(block: InsertedBlock, args: object, z: Tensor) -> Tensor:
    return z.movedim((0, 1), LAYOUTS[block.layout])


def _make(output: Tensor, layout: str, options: dict[str, Any]) -> InsertedBlock:
    channels = output.shape[LAYOUTS[layout][1]]
    block = InsertedBlock(channels, output.ndim - 2, **options).to(output)
    block.set_layout(layout)
    return block


def _describe(path: str, block: InsertedBlock, known: Evidence) -> Place:
    shape = list(known.outputs[0].shape)
    del shape[LAYOUTS[block.layout][0]]
    parameters = sum(parameter.numel() for parameter in block.parameters())
    return Place(path, tuple(shape), block.layout, block.channels, block.inner_channels, parameters)


def _find_layout(path: str, known: Evidence, asked: str | None) -> str:
    """Return the layout of a place's output, or raise."""
    layout = _infer_layout(path, known) if asked is None else _check_layout(path, known, asked)
    if len({output.shape[LAYOUTS[layout][1]] for output in known.outputs}) > 1:
        refuse_calls(path, known.outputs)
    return layout


def _infer_layout(path: str, known: Evidence) -> str:
    """Return the layout if it is certain and the user need not confirm it, or raise."""
    shape, stay = tuple(known.outputs[0].shape), known.fixed_axes()
    last, batch, channels = len(shape) - 1, known.batch_axis(), known.channel_axis()
    if not stay:
        refuse(path, f"every axis of its output {shape} changes with the input's: no channels")
    if channels is None:
        words = [word for word in LAYOUTS if last == 2 or "tokens" not in word]
        refuse(
            path,
            f"which axis of its output {shape} is channels cannot be seen, since axes "
            f"{' and '.join(map(str, stay))} stay for every size of input that the network takes: "
            f"pass layout=, one of {', '.join(map(repr, words))}",
        )
    if (batch, channels) == (0, 1):
        return "channels_first"
    if (batch, channels) == (0, last) and last > 2:
        return "channels_last"
    if batch < channels == last == 2:
        word, order = ("tokens_first", "N, B, C") if batch else ("tokens", "B, N, C")
        refuse(
            path,
            f"it gives tokens ({order}), here {shape}: pass layout={word!r} for a block over them",
        )
    refuse(
        path,
        f"axis {batch} of its output {shape} is the batch and axis {channels} is channels; "
        "a block takes the batch first, and channels next or last",
    )


def _check_layout(path: str, known: Evidence, asked: str) -> str:
    """Raise if the evidence contradicts the layout that was passed."""
    shape, stay, batch = tuple(known.outputs[0].shape), known.fixed_axes(), known.batch_axis()
    if "tokens" in asked and len(shape) != 3:
        refuse(path, f"layout={asked!r} is of outputs with 3 axes; it gives {shape}")
    channels = LAYOUTS[asked][1] % len(shape)
    if stay and channels not in stay:
        refuse(
            path,
            f"layout={asked!r} takes axis {channels} of its output {shape} for channels, which "
            "changes with the input's size",
        )
    if batch != LAYOUTS[asked][0]:
        refuse(
            path,
            f"the batch is axis {batch} of its output {shape}, which layout={asked!r} takes for "
            f"axis {LAYOUTS[asked][0]}",
        )
    return asked


def _check_unwrapped(network: nn.Module) -> None:
    """Raise for wrappers that would ignore the new blocks or their gradients."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule)
    for module in network.modules():
        compiled = hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        if compiled or isinstance(module, wrappers):
            given = "a compiled one" if compiled else type(module).__name__
            raise ValueError(
                f"network must not be compiled or wrapped yet; got {given}: "
                "add the blocks first, to the network inside"
            )


def _find(network: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Find the modules that match the patterns, in the order of the network."""
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
            refuse(path, "one stands there; nl.remove_non_local(network) takes out all")
        if hasattr(module, CHILD):
            refuse(path, f"it has something else named {CHILD!r}")
    return dict(places.values())


def _matches(path: str, pattern: str) -> bool:
    names, globs = path.split("."), pattern.split(".")
    return len(names) == len(globs) and all(map(fnmatchcase, names, globs))
