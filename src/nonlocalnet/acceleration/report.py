"""What `nl.accelerate` found and did, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nonlocalnet.acceleration.attend import Operands
from nonlocalnet.ops.plan import choose


@dataclass(frozen=True)
class Found:
    """A block of a network.

    Attributes:
        path, kind: module path and class name.
        accelerated: whether the operation computes it now, or would after a dry run.
        family: the family that was recognized, or the nearest one.
        form: the operation in words.
        positions: N x M for one sample and head, of the example or of a map of 4,096 positions.
        before, now: bytes of N x M matrices in a training step, in float32: scores, weights and a
            gradient, of all samples and heads, and what the operation takes in their place; None
            where nothing is known.
        note: what else is to be said; for a block that was left alone, why.
        difference: the largest that the check found, in standard deviations; None without a check.
    """

    path: str
    kind: str
    accelerated: bool
    family: str = ""
    form: str = ""
    positions: tuple[int, int] | None = None
    before: int | None = None
    now: int | None = None
    note: str = ""
    difference: float | None = None


class Report(tuple[Found, ...]):
    """Blocks in the order of the network; str() gives a table.

    Attributes:
        assumed: whether sizes are those of a map of 4,096 positions, for want of an example.
    """

    assumed: bool = True

    @property
    def accelerated(self) -> tuple[Found, ...]:
        """The blocks that the operation computes."""
        return tuple(found for found in self if found.accelerated)

    @property
    def left_alone(self) -> tuple[Found, ...]:
        """The blocks that compute as before; `note` says why."""
        return tuple(found for found in self if not found.accelerated)

    def __str__(self) -> str:
        if not self:
            return "no attention or non-local block of a known family was found"
        lines = []
        if self.accelerated:
            rows = [("block", "class", "family", "form", "N x M", "before", "now")]
            rows += [
                (
                    found.path or "(the network)",
                    found.kind,
                    found.family,
                    found.form,
                    " x ".join(f"{n:,}" for n in found.positions or ()),
                    memory(found.before),
                    memory(found.now),
                )
                for found in self.accelerated
            ]
            lines += table(rows, right=(4, 5, 6))
            size = "a map of 4,096 positions" if self.assumed else "the example"
            lines.append(f"before, now: N x M matrices (scores, weights, a gradient) for {size}")
            for note in dict.fromkeys(found.note for found in self.accelerated if found.note):
                about = [f.path or "(the network)" for f in self.accelerated if f.note == note]
                lines.append(f"{', '.join(about)}: {note}")
        if self.left_alone:
            lines += [""] * bool(lines) + ["left alone"]
            rows = [(f.path or "(the network)", f.kind, f.note) for f in self.left_alone]
            lines += [f"  {line}" for line in table(rows)]
        return "\n".join(lines)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Align columns; those in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def memory(count: int | None) -> str:
    """Write a number of bytes.

    >>> memory(0), memory(40_000), memory(70_000_000), memory(3 * 2**30)
    ('0', '39.1 KiB', '66.8 MiB', '3.0 GiB')
    """
    if count is None:
        return "?"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.1f} {unit}" if count else "0"


def form_of(operands: Operands) -> str:
    """Describe the operation in words."""
    options = operands.options
    heads = options["heads"]
    d, c = operands.theta.shape[2] // heads, operands.g.shape[2] // heads
    softmax = options["pairwise"] in ("gaussian", "embedded_gaussian")
    words = ["softmax" if softmax else options["pairwise"].replace("_", " ")]
    if options["scale"] is not None:
        words.append(f"scale {options['scale']:.4g}")
    if heads > 1:
        words.append(f"{heads} heads")
    words.append(f"d = {d}" if d == c else f"d = {d}, c = {c}")
    if operands.extent != "spacetime":
        words.append({"space": "each frame alone", "causal": "frame-causal"}[operands.extent])
    return ", ".join(words)


def sizes_of(operands: Operands, n: int | None = None) -> tuple[tuple[int, int], int, int]:
    """Return N x M, and bytes of N x M-shaped tensors at a time: all of them, and the operation's.

    Args:
        operands: of a call; batch and positions are used only without n.
        n: positions to assume, with one sample.
    """
    batch, queries, d = operands.theta.shape
    keys, c = operands.g.shape[1:]
    heads, frames = operands.options["heads"], operands.options["causal_frames"]
    if n is not None:
        ratio = max(round(queries / keys), 1) if keys < queries else 1
        batch, queries, keys = 1, n, n // ratio + max(keys - queries, 0)
        frames = None if frames is None else 4
    plan = choose(
        operands.options["pairwise"],
        (batch, queries, keys, d, c),
        dtype=operands.g.dtype if n is None else torch.float32,
        device=operands.g.device.type,
        heads=heads,
        frames=frames,
    )
    return (queries, keys), 3 * 4 * batch * heads * queries * keys, plan.matrix_bytes
