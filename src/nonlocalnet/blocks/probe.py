"""Find the channel and batch axes of modules' outputs by running the network on examples.

Axes that change with the input's size are positions, and the one that does not is channels. So the
network runs on the example and then on smaller or larger ones, until every place is decided. If it
accepts only one size, its norms and convolutions may show the channels. Nothing is guessed.
"""

from __future__ import annotations

import copy
import reprlib
from collections import UserDict, defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, pooling

CHILD = "non_local"
EXAMPLE_SIZE = {1: (64,), 2: (64, 64), 3: (8, 64, 64)}
PASS_EXAMPLE = "pass example=, a tensor or a tuple or dictionary of arguments that it takes"

# modules whose axis 1 is always channels
CHANNELS_FIRST = (
    conv._ConvNd,
    batchnorm._NormBase,
    nn.GroupNorm,
    pooling._AvgPoolNd,
    pooling._MaxPoolNd,
    pooling._AdaptiveAvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
)

Shape = tuple[int, ...]


class PlaceError(ValueError):
    """A module that no block can follow."""


def refuse(path: str, why: str) -> NoReturn:
    raise PlaceError(f"no block can stand after {path!r}: {why}")


@dataclass(eq=False)
class Evidence:
    """What is known about the axes of a place's output.

    Attributes:
        outputs: empty tensors like its outputs for the example, one per call of the module.
        declared, declared_batch: axes that layers (norms, convolutions, attention) use as
            channels and as batch.
        size, batch: axes that change with the input's size and with its batch.
        broken: axes that changed with the input's size in runs that failed later.
    """

    outputs: list[Tensor]
    declared: set[int]
    declared_batch: set[int]
    size: set[int] = field(default_factory=set)
    batch: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)

    def fixed_axes(self) -> list[int]:
        """List the axes that never changed, which may be channels."""
        return [k for k in range(1, self.outputs[0].ndim) if k not in self.size | self.batch]

    def channel_axis(self) -> int | None:
        """Return the axis of the channels, if it is certain."""
        stay = set(self.fixed_axes())
        if len(stay) > 1:
            certain = len(self.declared) == 1 and self.declared <= stay
            stay = self.declared if certain else stay - self.broken
        return next(iter(stay)) if len(stay) == 1 else None

    def batch_axis(self) -> int:
        """Return the axis of the batch, which is 0 unless another was found."""
        return min(self.declared_batch if len(self.declared_batch) == 1 else self.batch, default=0)


@dataclass
class Run:
    """Results of one run: outputs by place, declared axes by shape, and the error, if any."""

    outputs: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    declared: dict[Shape, set[int]] = field(default_factory=lambda: defaultdict(set))
    declared_batch: dict[Shape, set[int]] = field(default_factory=lambda: defaultdict(set))
    error: Exception | None = None


def probe(network: nn.Module, places: dict[str, nn.Module], example: object) -> dict[str, Evidence]:
    """Collect evidence on each place, leaving network, example and random state unchanged."""
    if example is None:
        example = _zeros(network)
    with _runner(network, places) as run:
        first = run(example)
        if first.error is not None:
            _refuse_example(first.error, example)
        evidence = {}
        for path, place in places.items():
            outputs = first.outputs[path]
            _check_calls(path, place, outputs)
            shape = tuple(outputs[0].shape)
            evidence[path] = Evidence(outputs, first.declared[shape], first.declared_batch[shape])
        _run_other_sizes(run, example, evidence)
    return evidence


def runs_new_children(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward


# Runs


@contextmanager
def _runner(network: nn.Module, places: dict[str, nn.Module]) -> Generator[Callable[[object], Run]]:
    """Yield a function that runs the network on an example and records what happens."""
    current = Run()

    def keep(path: str) -> Callable[..., None]:
        return lambda _, __, output: current.outputs[path].append(_check_output(path, output))

    def note(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        for items in (args, output if isinstance(output, tuple) else (output,)):
            _note_declared(module, items[0] if items else None, current)

    def run(example: object) -> Run:
        nonlocal current
        current = Run()
        try:
            args, kwargs = _arguments(_map(torch.clone, example))
            buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
            torch.func.functional_call(network, buffers, args, kwargs)
        except Exception as error:
            current.error = error
        return current

    with ExitStack() as undo:
        for module in network.modules():
            undo.callback(setattr, module, "training", module.training)
            module.training = False  # not by eval(), which a network may override
            undo.enter_context(module.register_forward_hook(note))
        for path, place in places.items():
            undo.enter_context(place.register_forward_hook(keep(path)))
            if not runs_new_children(place):
                place.add_module(CHILD, _Placeholder(path))
                undo.callback(delattr, place, CHILD)
        undo.enter_context(torch.no_grad())
        cuda = {parameter.device for parameter in network.parameters() if parameter.is_cuda}
        undo.enter_context(torch.random.fork_rng(devices=cuda))
        yield run


class _Placeholder(nn.Module):
    """Stands where the block will be, and fails if anything but the hook would run it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, *args: object, **kwargs: object) -> NoReturn:
        refuse(self.path, "its forward runs all its children, and would run the block too")


def _note_declared(module: nn.Module, item: object, run: Run) -> None:
    """Record which axes of an input or output a layer uses as channels and as batch."""
    if not isinstance(item, Tensor) or item.is_nested or item.ndim < 3:
        return
    shape, width = tuple(item.shape), None
    if isinstance(module, CHANNELS_FIRST):
        width = shape[1]
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1:
        width = module.normalized_shape[0]  # not the last axis: a subclass may move it
    if width is not None and shape[1:].count(width) == 1:
        run.declared[shape].add(shape.index(width, 1))
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention) and len(shape) == 3:
        run.declared_batch[shape].add(0 if module.batch_first else 1)


# Inputs of other sizes


def _run_other_sizes(
    run: Callable[[object], Run], example: object, evidence: dict[str, Evidence]
) -> None:
    """Run the network on inputs of other sizes, until every place is decided."""
    for pick, of_batch, always in _variations(example):
        for factor in (0.5, 2):  # the smaller first: it takes less time
            undecided = {
                path
                for path, known in evidence.items()
                if len(known.fixed_axes()) > 1 and (always or known.channel_axis() is None)
            }
            other = _resized(example, pick, factor) if undecided else None
            if other is None:
                continue
            result = run(other)
            whole, idle = result.error is None, False
            for path, known in evidence.items():
                changed = _changed(known.outputs, result.outputs[path])
                into = known.broken if not whole else known.batch if of_batch else known.size
                into |= changed
                idle |= path in undecided and not changed
            if whole and not idle:
                break


def _changed(outputs: list[Tensor], others: list[Tensor]) -> set[int]:
    return {
        axis
        for output, other in zip(outputs, others, strict=False)
        for axis in range(min(output.ndim, other.ndim))
        if output.shape[axis] != other.shape[axis]
    }


def _variations(example: object) -> Generator[tuple[Callable[[Tensor, int], bool], bool, bool]]:
    """Yield which axes to change together, whether they are the batch, and whether to go on
    where declared axes already decide.

    Axes of equal size change together in all tensors of the example: height and width of a square,
    an image and its mask. Axis 0 is the batch if it is as long as that of the first tensor. At the
    end, each axis changes alone, counted from the last one.
    """
    tensors = _tensors(example)
    batch = next((tensor.shape[0] for tensor in tensors), None)

    def is_batch(tensor: Tensor, axis: int) -> bool:
        return axis == 0 and tensor.shape[0] == batch

    axes = [(axis - t.ndim, t.shape[axis]) for t in tensors for axis in range(t.ndim)
            if not is_batch(t, axis)]  # fmt: skip
    axes.sort(key=lambda axis: -axis[0])
    for size in dict.fromkeys(size for _, size in axes):
        yield lambda t, axis, n=size: t.shape[axis] == n and not is_batch(t, axis), False, True
    yield is_batch, True, True
    yield lambda t, axis: t.shape[axis] == batch, False, False
    for last in dict.fromkeys(axis for axis, _ in axes):
        yield lambda t, axis, k=last: axis - t.ndim == k and not is_batch(t, axis), False, False


def _resized(example: object, pick: Callable[[Tensor, int], bool], factor: float) -> object | None:
    """Shorten or lengthen axes by repeating the example's values; None if nothing changes."""
    changeable = {id(tensor) for tensor in _tensors(example)}
    resized = False

    def change(tensor: Tensor) -> Tensor:
        nonlocal resized
        if id(tensor) in changeable:
            for axis in [axis for axis in range(tensor.ndim) if pick(tensor, axis)]:
                old = tensor.shape[axis]
                if new := int(old * factor):
                    index = torch.arange(new, device=tensor.device) % old
                    tensor, resized = tensor.index_select(axis, index), True
        return tensor

    other = _map(change, example)
    return other if resized else None


# Examples


def _zeros(network: nn.Module) -> Tensor:
    """Make an input for the network's first convolution."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            size = EXAMPLE_SIZE[len(module.kernel_size)]
            return module.weight.new_zeros(1, module.in_channels, *size)
    raise ValueError(f"network has no convolution to make an example for: {PASS_EXAMPLE}")


def _arguments(example: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split into arguments (a tuple, or a single object) and keyword arguments (a dictionary)."""
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example,), {}


def _refuse_example(error: Exception, example: object) -> NoReturn:
    if isinstance(error, PlaceError):
        raise error
    args, kwargs = _map(lambda tensor: tuple(tensor.shape), _arguments(example))
    shown = [*map(reprlib.repr, args), *(f"{k}={reprlib.repr(v)}" for k, v in kwargs.items())]
    hint = "; a dictionary that is one argument goes into a tuple, ({...},)" if kwargs else ""
    raise ValueError(
        f"network must run on the example; got an error on {', '.join(shown)}: {PASS_EXAMPLE}{hint}"
    ) from error


def _map(change: Callable[[Tensor], object], item: Any) -> Any:
    """Copy nested tuples, lists and dictionaries, with every tensor changed."""
    if isinstance(item, Tensor):
        return change(item)
    if isinstance(item, Mapping):
        # copy.copy of other classes might share their content
        new: Any = copy.copy(item) if isinstance(item, dict | UserDict) else dict(item)
        for key, value in item.items():
            new[key] = _map(change, value)
        return new
    if isinstance(item, list):
        return [_map(change, value) for value in item]
    if isinstance(item, tuple):
        values = [_map(change, value) for value in item]
        return type(item)(*values) if hasattr(item, "_fields") else type(item)(values)
    return item


def _tensors(example: object) -> list[Tensor]:
    """List the tensors whose axes can be resized."""
    tensors: list[Tensor] = []
    _map(tensors.append, example)
    return [t for t in tensors if not t.is_nested and t.layout is torch.strided and t.ndim]


# Outputs


def _check_output(path: str, output: object) -> Tensor:
    """Return an empty tensor like the output, or raise if a block cannot take it."""
    if not isinstance(output, Tensor):
        refuse(
            path, f"it gives a {type(output).__name__}, not a tensor: name a module that gives one"
        )
    if not 3 <= output.ndim <= 5:
        refuse(
            path,
            "it must give (B, C, T), (B, C, H, W) or (B, C, T, H, W), channels first or last; "
            f"it gives {tuple(output.shape)}",
        )
    if not output.is_floating_point():
        refuse(path, f"it must give floating numbers; it gives {output.dtype}")
    return output.new_empty(()).expand(output.shape)


def _check_calls(path: str, place: nn.Module, outputs: list[Tensor]) -> None:
    if not outputs:
        inside = [f"{path}.{name}" for name, _ in place.named_children() if name != CHILD]
        hint = f"; name a module within, such as {inside[-1]!r}" if inside else ""
        refuse(path, f"it did not run in the example{hint}")
    if len({(output.ndim, output.dtype, output.device) for output in outputs}) > 1:
        refuse_calls(path, outputs)


def refuse_calls(path: str, outputs: list[Tensor]) -> NoReturn:
    shapes = " and ".join(dict.fromkeys(str(tuple(output.shape)) for output in outputs))
    refuse(path, f"it runs several times, and gives {shapes}")
