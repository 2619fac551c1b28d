"""Prove that a family computes what a module computes, on copies and a small random input."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nonlocalnet.acceleration.attend import Operands, Recorder, average
from nonlocalnet.acceleration.calls import observed
from nonlocalnet.acceleration.families.base import Family, noise
from nonlocalnet.acceleration.isolated_copy import isolated_copy
from nonlocalnet.acceleration.swap import original_class

FLOAT32_TOLERANCE = 1e-4  # for blocks that do not run in float64 on a CPU


@dataclass(frozen=True)
class Verdict:
    """What the check of a family found.

    Attributes:
        passed: whether the family computes the module's function.
        difference: largest difference, in units of the standard deviation of what differs; None
            if there was nothing to compare.
        what: what differs most, or why nothing could be compared.
        operands: what the operation got.
        axes: number of axes of the input.
        fused: whether the module itself calls torch's attention.
    """

    passed: bool
    difference: float | None
    what: str
    operands: tuple[Operands, ...] = ()
    axes: int = 0
    fused: bool = False


def check(module: nn.Module, family: Family) -> Verdict:
    """Compare a module's own forward with a family's, in training and in evaluation.

    Outputs, gradients of the input and of every parameter, the state afterwards, and the inputs of
    every child must agree. The module itself is not run.
    """
    with _undisturbed():
        try:
            return _compare(module, family, torch.device("cpu"), torch.float64)
        except _NotRunnable as first:
            device = next((p.device for p in module.parameters()), torch.device("cpu"))
            if device.type == "meta":
                return Verdict(False, None, str(first))
        try:
            return _compare(module, family, device, torch.float32)
        except _NotRunnable as second:
            return Verdict(False, None, str(second))


class _NotRunnable(Exception):
    """The module's own code does not run on the example."""


@contextlib.contextmanager
def _undisturbed() -> Generator[None]:
    """Keep the random state, and compute without the caller's modes."""
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with (
        torch.random.fork_rng(devices=cuda),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        torch.device("cpu"),
    ):
        yield


def _compare(
    module: nn.Module, family: Family, device: torch.device, dtype: torch.dtype
) -> Verdict:
    own, ours = (isolated_copy(module, device=device, dtype=dtype, own=x) for x in (True, False))
    try:
        example = tuple(x.to(device, dtype) for x in family.example(own))
    except Exception as error:
        return Verdict(False, None, f"its parts have other shapes ({_first_line(error)})")
    tolerance = family.tolerance if dtype == torch.float64 else FLOAT32_TOLERANCE
    recorder, watch = Recorder(), _Watch()
    worst = Difference(0.0, "")
    for training in (True, False):
        own.train(training)
        ours.train(training)
        if not family.when(ours, *example):
            continue  # its own code runs there
        try:
            with watch:
                expected = _run(own, partial(_call, own, family.keywords), example)
        except Exception as error:
            raise _NotRunnable(f"its own forward fails ({_first_line(error)})") from error
        try:
            with observed(lambda _: recorder):  # parts of a block may be accelerated, too
                found = _run(ours, partial(family.compute, recorder, ours), example)
        except Exception as error:
            return Verdict(False, None, f"its parts do not fit ({_first_line(error)})")
        worst = max(worst, _difference(expected, found, family.bypassed), key=lambda d: d.size)
        if worst.size > tolerance:
            return Verdict(False, worst.size, worst.what, tuple(recorder.calls), example[0].ndim)
    if not recorder.calls:
        return Verdict(False, None, "its settings need its own code")
    with torch.no_grad(), observed(lambda _: average):
        blurred = family.compute(average, ours, *example)
    if _apart(_tensors(blurred)[0], expected.outputs[0]) < 1e3 * tolerance:
        return Verdict(False, None, "its output does not depend on the attention")
    calls = tuple(recorder.calls)
    return Verdict(True, worst.size, worst.what, calls, example[0].ndim, watch.fused)


@dataclass(frozen=True)
class Difference:
    size: float
    what: str


@dataclass
class Run:
    """What one forward and backward pass gave.

    Attributes:
        outputs: its tensors.
        gradients: by name, of the input and the parameters; None if backward fails.
        calls: inputs of each child, by path.
        state: buffers and other attributes afterwards.
    """

    outputs: list[Tensor]
    gradients: dict[str, Tensor | None] | None
    calls: dict[str, list[Tensor]]
    state: dict[str, Any]


def _run(module: nn.Module, forward: Callable[..., Any], example: tuple[Tensor, ...]) -> Run:
    calls: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_: object, args: Any, kwargs: Any) -> None:
            tensors = _tensors([*args, *kwargs.values()])
            calls.setdefault(path, []).extend(t.detach().clone() for t in tensors[:1])

        return hook

    handles = [
        child.register_forward_pre_hook(keep(path), with_kwargs=True)
        for path, child in module.named_modules()
        if path
    ]
    torch.manual_seed(0)  # for dropout
    inputs = [x.clone().requires_grad_() for x in example]
    module.zero_grad(set_to_none=True)
    # in-place operations must not meet leaves, nor change the example
    output = forward(*(x * 1 for x in inputs))
    for handle in handles:
        handle.remove()
    outputs = _tensors(output)
    if not all(t.isfinite().all() for t in outputs):
        raise FloatingPointError("its output is not finite on a random input")
    gradients = _gradients(module, inputs, outputs)
    return Run([t.detach() for t in outputs], gradients, calls, _state(module))


def _call(module: nn.Module, keywords: tuple[str, ...], *args: Tensor) -> Any:
    """Call a module with the last arguments by name."""
    split = len(args) - len(keywords) if len(args) > 1 else len(args)
    return module(*args[:split], **dict(zip(keywords, args[split:], strict=False)))


def _gradients(
    module: nn.Module, inputs: list[Tensor], outputs: list[Tensor]
) -> dict[str, Tensor | None] | None:
    loss = sum((t * noise(*t.shape, seed=i).to(t)).sum() for i, t in enumerate(outputs))
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return {}
    try:
        loss.backward()
    except RuntimeError:  # such as an in-place operation on what backward needs
        return None
    named = {f"input {i}": x.grad for i, x in enumerate(inputs)}
    return named | {f"gradient of {name}": p.grad for name, p in module.named_parameters()}


def _state(module: nn.Module) -> dict[str, Any]:
    found = {}
    for path, child in module.named_modules():
        for key, value in {**vars(child), **child._buffers}.items():
            if not key.startswith("_") or isinstance(value, Tensor):
                known = original_class(type(value))
                keep = value.detach().clone() if isinstance(value, Tensor) else known
                found[f"{path}.{key}".strip(".")] = keep
    return found


def _difference(expected: Run, found: Run, bypassed: tuple[str, ...]) -> Difference:
    """Return the largest difference between two runs."""
    output = _of_lists("its output", expected.outputs, found.outputs)
    if output.size > 1e-3:  # then the rest says nothing more
        return output
    all_ = [
        output,
        *_of_calls(expected.calls, found.calls, bypassed),
        *_of_states(expected.state, found.state),
    ]
    if expected.gradients is not None:
        ours = found.gradients or {}
        for name, gradient in expected.gradients.items():
            all_.append(_of_gradients(name, gradient, ours.get(name), expected.gradients))
    return max(all_, key=lambda d: d.size)


NEVER = float("inf")


def _of_lists(what: str, expected: list[Tensor], found: list[Tensor]) -> Difference:
    if [t.shape for t in expected] != [t.shape for t in found]:
        return Difference(NEVER, f"{what} has another shape")
    sizes = [_apart(y, x) for x, y in zip(expected, found, strict=True)]
    return Difference(max(sizes, default=0.0), what)


def _of_calls(
    expected: dict[str, list[Tensor]], found: dict[str, list[Tensor]], bypassed: tuple[str, ...]
) -> Generator[Difference]:
    for path in expected.keys() | found.keys():
        if path.split(".")[0] in bypassed:
            continue
        if len(expected.get(path, [])) != len(found.get(path, [])):
            times = len(expected.get(path, [])), len(found.get(path, []))
            yield Difference(NEVER, f"it calls {path} {times[0]} times, not {times[1]}")
        else:
            ordered = _in_order(expected[path], found[path])
            yield _of_lists(f"the input of {path}", expected[path], ordered)


def _in_order(expected: list[Tensor], found: list[Tensor]) -> list[Tensor]:
    """Order the inputs of a child that is called several times, such as a shared pool."""
    left, ordered = list(found), []
    for x in expected:
        like = [i for i, y in enumerate(left) if y.shape == x.shape] or [0]
        nearest = min(like, key=lambda i: _apart(left[i], x) if len(like) > 1 else 0)
        ordered.append(left.pop(nearest))
    return ordered


def _of_states(expected: dict[str, Any], found: dict[str, Any]) -> Generator[Difference]:
    for key in expected.keys() | found.keys():
        x, y = expected.get(key), found.get(key)
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            yield _of_lists(f"{key} afterwards", [x], [y])
        elif x != y:
            yield Difference(NEVER, f"it sets {key}")


def _of_gradients(
    name: str, x: Tensor | None, y: Tensor | None, others: dict[str, Tensor | None]
) -> Difference:
    """Compare one gradient; one that is zero but for rounding in units of the largest."""
    if x is None or y is None:
        return Difference(0.0 if x is y else NEVER, f"{name} is missing")
    largest = max(float(g.abs().max()) for g in others.values() if g is not None)
    unit = max(float(x.double().std(correction=0)), 1e-3 * largest, 1e-30)
    return Difference(float((x - y).abs().max()) / unit, name)


def _apart(x: Tensor, y: Tensor) -> float:
    """Return the largest difference of two tensors, in units of the standard deviation of y."""
    if x.numel() == 0 or torch.equal(x, y):
        return 0.0
    if not y.is_floating_point():
        return NEVER
    unit = max(float(y.double().std(correction=0)), 1e-6 * float(y.abs().max()), 1e-30)
    return float((x - y).abs().max()) / unit


def _tensors(item: Any) -> list[Tensor]:
    if isinstance(item, Tensor):
        return [item]
    if isinstance(item, dict):
        item = list(item.values())
    if isinstance(item, list | tuple):
        return [t for part in item for t in _tensors(part)]
    return []


def _first_line(error: Exception) -> str:
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


class _Watch(TorchFunctionMode):
    """Note whether torch's attention is called."""

    fused = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.fused |= func is F.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))
