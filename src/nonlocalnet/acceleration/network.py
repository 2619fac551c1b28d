"""`nl.accelerate` and `nl.restore`: change how the blocks of a network compute, and undo it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nonlocalnet.acceleration.calls import hooked
from nonlocalnet.acceleration.check import Verdict, check
from nonlocalnet.acceleration.families import FAMILIES
from nonlocalnet.acceleration.families.base import Family
from nonlocalnet.acceleration.families.others import OTHERS
from nonlocalnet.acceleration.observe import compared
from nonlocalnet.acceleration.report import Found, Report, form_of, sizes_of
from nonlocalnet.acceleration.swap import family_of, original_class, swap, unswap

ASSUMED = 4096  # positions, where no example tells


def accelerate(
    network: nn.Module, *, dry_run: bool = False, example: object = None, verbose: bool = True
) -> Report:
    """Let the attention and non-local blocks of a network compute by `nl.non_local`, in place.

    Blocks of other projects are recognized by their class and parts (docs/acceleration.md has the
    list). A block is changed only if it passes a check: on a copy with random weights, in float64,
    its own forward and ours agree in outputs, gradients and state, in training and in evaluation.
    The module objects, parameters, `state_dict` and hooks stay as they are; outputs and gradients
    are equal to rounding. A block's own code still runs for small maps and for arguments that only
    it understands, such as masks.

    Args:
        network: any network, on any device. Compile it or wrap it for many GPUs afterwards.
        dry_run: report only.
        example: an input of the network, to report the sizes that it has there: a tuple holds its
            arguments, a dictionary its keyword arguments, and anything else is its only argument.
            The network runs on it in evaluation mode. None reports a map of 4,096 positions.
        verbose: print the report.

    Returns:
        A tuple of `Found`, one per block; str() gives a table: path, class, family, form,
        N x M, memory before and now, and what was left alone and why.

    >>> import torch, nonlocalnet as nl
    >>> class NonLocalAttn(torch.nn.Module):  # as timm's
    ...     def __init__(self, c):
    ...         super().__init__()
    ...         self.t, self.p, self.g, self.z = (torch.nn.Conv2d(c, c, 1) for _ in range(4))
    ...         self.norm, self.scale = torch.nn.BatchNorm2d(c), c**-0.5
    ...     def forward(self, x):
    ...         t, p, g = (part(x).flatten(2) for part in (self.t, self.p, self.g))
    ...         y = g @ (t.mT @ p * self.scale).softmax(2).mT
    ...         return self.norm(self.z(y.view_as(x))) + x
    >>> found = nl.accelerate(torch.nn.Sequential(NonLocalAttn(8)), verbose=False)
    >>> found[0].family, found[0].form
    ('timm', 'softmax, scale 0.3536, d = 8')
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module; got {type(network).__name__}")
    compiled = _compiled(network)
    found: dict[str, Found] = {}
    operands: dict[str, Any] = {}
    changed: list[nn.Module] = []
    for path, module in reversed([*network.named_modules()]):  # parts before the whole
        kind = _name(module)
        candidates = [family for family in FAMILIES if family.recognizes(module, kind)]
        why = OTHERS.get(kind) or (_obstacle(module, candidates, compiled) if candidates else None)
        if why is not None:
            found[path] = Found(path, kind, False, note=why)
        elif candidates:
            family, verdict = _decide(module, candidates)
            found[path] = _describe(path, kind, family, verdict)
            if verdict.passed:
                operands[path] = verdict.operands[0]
                if family_of(module) is None:
                    swap(module, family, verdict.axes)
                    changed.append(module)
    try:
        if example is not None:
            seen = compared(network, example)
            for path in operands:
                found[path] = _measure(found[path], seen.get(path))
    finally:
        if dry_run:
            for module in changed:
                unswap(module)
    report = Report(found[path] for path, _ in network.named_modules() if path in found)
    report.assumed = example is None
    if verbose:
        print(report)
    return report


def restore(network: nn.Module) -> tuple[str, ...]:
    """Undo `nl.accelerate`, also in copies of the network: every block computes as it came.

    Returns:
        Paths of the blocks that were accelerated; empty if there was none.

    Raises:
        ValueError: a block's class was changed again after `nl.accelerate`, as `fully_shard` does.
    """
    paths = []
    for path, module in network.named_modules():
        if family_of(module) is None:
            continue
        unswap(module)
        paths.append(path)
    return tuple(paths)


def _name(module: nn.Module) -> str:
    kind = original_class(type(module)).__name__
    return getattr(module, "original_name", kind) if kind.endswith("ScriptModule") else kind


def _decide(module: nn.Module, candidates: list[Family]) -> tuple[Family, Verdict]:
    """Return the first family that passes the check, or the one that came nearest."""
    failed: list[tuple[float, Family, Verdict]] = []
    for family in candidates:
        verdict = check(module, family)
        if verdict.passed:
            return family, verdict
        difference = verdict.difference
        failed.append((float("inf") if difference is None else difference, family, verdict))
    _, family, verdict = min(failed, key=lambda item: item[0])
    return family, verdict


def _describe(path: str, kind: str, family: Family, verdict: Verdict) -> Found:
    if not verdict.passed:
        difference = verdict.difference
        size = "" if difference in (None, float("inf")) else f" by {difference:.2g} std"
        what = f"{verdict.what} differs{size}" if size else verdict.what
        why = f"not the function of the family {family.name!r}: {what}"
        return Found(path, kind, False, family.name, note=why, difference=difference)
    operands = verdict.operands[0]
    positions, before, now = sizes_of(operands, ASSUMED)
    note = "it called torch's attention: gains only where that makes the matrix"
    return Found(
        path=path,
        kind=kind,
        accelerated=True,
        family=family.name,
        form=form_of(operands),
        positions=positions,
        before=before,
        now=now,
        note=note if verdict.fused else "",
        difference=verdict.difference,
    )


def _measure(found: Found, operands: Any) -> Found:
    """Fill in the sizes of the example."""
    fields = {**vars(found)}
    if operands is None:
        fields |= {"positions": None, "before": None, "now": None}
        fields["note"] = "; ".join(filter(None, (found.note, "it did not run in the example")))
    else:
        positions, before, now = sizes_of(operands)
        fields |= {"positions": positions, "before": before, "now": now}
    return Found(**fields)


def _obstacle(module: Any, candidates: list[Family], compiled: set[int]) -> str | None:
    """Say why a module cannot be changed, whatever it computes; None if it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a ScriptModule cannot be changed: accelerate the network before scripting it"
    if id(module) in compiled:
        return "it is compiled already: accelerate the network before compiling it"
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    kind = original_class(type(module))
    own = [c for c in kind.__mro__ if c is not nn.Module and "forward" in vars(c)]
    if len(own) > 1:
        return f"{own[0].__name__} overrides the forward of {own[1].__name__}"
    if kind.__call__ is not nn.Module.__call__:
        return f"{kind.__name__} overrides __call__"
    if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
        return f"{kind.__name__} pickles in its own way"
    for name in {name for family in candidates for name in family.bypassed}:
        child = getattr(module, name, None)
        if isinstance(child, nn.Module) and any(map(hooked, child.modules())):
            return f"{name} has a hook, which would not run any more"
    return None


def _compiled(network: nn.Module) -> set[int]:
    """Return the ids of modules that belong to something compiled."""
    return {
        id(part)
        for module in network.modules()
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        for part in module.modules()
    }
