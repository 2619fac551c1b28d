"""Draw the curves of training runs."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's, which are distinguishable with color blindness
COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7"),
    *("#e69f00", "#56b4e9", "#000000", "#8a8a8a"),
)
DASHES = ("-", "--", ":", "-.")
FEW = 25  # lines with at most so many points have markers


Line = tuple[list[float], list[float]]  # x, y


def panels(lines: dict[str, dict[str, Line]], *, xlabel: str) -> Figure:
    """Draw what several runs measured, one panel per quantity.

    A run has the same color and dashes in all panels; after eight runs the dashes change.

    Args:
        lines: {ylabel: {run: (x, y)}}.
        xlabel: of all panels.

    Returns:
        A matplotlib figure.
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
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
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
