"""Curves of training runs."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#8a8a8a",
)
DASHES = ("-", "--", ":", "-.")
FEW = 25  # points of a line that are marked


def curves(runs: dict[str, list[tuple[list[int], list[float]]]], *, ylabel: str) -> Figure:
    """Draw one line a run, one color a group: {group: [(iterations, values), ...]}."""
    figure = Figure(figsize=(7, 3.2), dpi=120)
    axis = figure.subplots()
    colors = ("#8e8e93", "#0a66c2", "#d97706", "#15803d")
    for (name, lines), color in zip(runs.items(), colors, strict=False):
        for k, (iterations, values) in enumerate(lines):
            label = name if k == 0 else None
            axis.plot(iterations, values, color=color, linewidth=1.6, label=label)
    axis.set(xlabel="iteration", ylabel=ylabel)
    _plain(axis)
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


Line = tuple[list[float], list[float]]  # x, y


def panels(lines: dict[str, dict[str, Line]], *, xlabel: str) -> Figure:
    """Draw what several runs measured, one panel a quantity: {ylabel: {run: (x, y)}}.

    A run has its color and dashes in all panels; the colors are Okabe and Ito's, which the
    color-blind tell apart, and after eight runs the dashes change. Few points are marked.
    """
    names = list(dict.fromkeys(name for runs in lines.values() for name in runs))
    styles = {
        name: {"color": COLORS[k % len(COLORS)], "linestyle": DASHES[k // len(COLORS) % 4]}
        for k, name in enumerate(names)
    }
    rows = -(-len(names) // (1 if max(map(len, names), default=0) > 45 else 2))
    height = 2.7 * len(lines) + 0.5 + 0.22 * rows
    figure = Figure(figsize=(8, height), dpi=130, layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(lines), 1, sharex=True))
    shown = {}
    for axis, (ylabel, runs) in zip(axes, lines.items(), strict=True):
        for name, (x, y) in runs.items():
            marker = "o" if len(x) <= FEW else None
            (shown[name],) = axis.plot(
                x, y, linewidth=1.6, marker=marker, markersize=4, **styles[name]
            )
        axis.set_ylabel(ylabel)
        _plain(axis)
    axes[-1].set_xlabel(xlabel)
    figure.align_ylabels(axes)
    figure.legend(
        [shown[name] for name in names],
        names,
        loc="outside lower center",
        ncols=-(-len(names) // rows) if names else 1,
        frameon=False,
        fontsize=9,
    )
    return figure


def _plain(axis: Axes) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
