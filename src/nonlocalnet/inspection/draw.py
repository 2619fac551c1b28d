"""Pictures of attention: the paper's Figure 3 for one query."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle

from nonlocalnet.inspection.affinity import Attention

INK, QUERY = "#111111", "#ff2d55"
COLOURS = (
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
FAINT = 0.02  # relative to the heaviest; no arrow below


def figure3(frames: torch.Tensor, attention: Attention, *, top: int = 8, title: str = "") -> Figure:
    """Draw the clip in a row, the query framed, and arrows to the heaviest keys.

    Each key is drawn where its cell lies when the map is laid evenly over the clip. Cells are the
    darker the smaller their |weight| relative to the largest. Arrows are wider for larger weights.

    Args:
        frames: (T, 3, H, W) uint8 RGB, the clip that attention was computed for.
        attention: from `attend`.
        top: at most how many arrows; a key below 2% of the heaviest gets none.
        title: above the row.

    Returns:
        A matplotlib figure, to be saved or shown.
    """
    count, _, height, width = frames.shape
    figure = Figure(figsize=(1.55 * count, 2.25), dpi=120)
    axes = np.atleast_1d(figure.subplots(1, count))
    weights = attention.weights.abs().numpy()
    heat = weights / max(weights.max(), 1e-12)
    steps, rows, columns = weights.shape
    for t, axis in enumerate(axes):
        step = t * steps // count
        axis.imshow(frames[t].permute(1, 2, 0).numpy(), extent=(0, width, height, 0))
        shade = np.zeros((rows, columns, 4))
        shade[..., 3] = 0.5 * (1 - heat[step])
        axis.imshow(shade, extent=(0, width, height, 0), interpolation="nearest")
        axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        share = weights[step].sum() / max(weights.sum(), 1e-12) * steps / count
        axis.set_xlabel(f"frame {t}: {share:.0%}", fontsize=8)
    t, row, column = attention.query
    size = attention.size
    cell = (width / size[2], height / size[1])
    query_frame = min((2 * t + 1) * count // (2 * size[0]), count - 1)
    corner = (column * cell[0], row * cell[1])
    axes[query_frame].add_patch(
        Rectangle(corner, *cell, fill=False, edgecolor=QUERY, linewidth=2.5)
    )
    start = (corner[0] + cell[0] / 2, corner[1] + cell[1] / 2)
    for flat in np.argsort(-weights, axis=None)[:top]:
        step, key_row, key_column = np.unravel_index(flat, weights.shape)
        if heat[step, key_row, key_column] < FAINT:
            break
        key_frame = int((2 * step + 1) * count // (2 * steps))
        end = ((key_column + 0.5) * width / columns, (key_row + 0.5) * height / rows)
        figure.add_artist(
            ConnectionPatch(
                start,
                end,
                "data",
                "data",
                axesA=axes[query_frame],
                axesB=axes[min(key_frame, count - 1)],
                arrowstyle="-|>",
                mutation_scale=9,
                linewidth=0.6 + 1.8 * float(heat[step, key_row, key_column]),
                color=QUERY,
                alpha=0.35 + 0.6 * float(heat[step, key_row, key_column]),
                zorder=5,
            )
        )
    kind = "share of the weight" if attention.normalised else "share of |weight|"
    figure.suptitle(title or f"{attention.block}: {kind} by frame", fontsize=9, color=INK)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.86, bottom=0.1, wspace=0.06)
    return figure


def curves(runs: dict[str, list[tuple[list[int], list[float]]]], *, ylabel: str) -> Figure:
    """Draw one line a run, one colour a group: {group: [(iterations, values), ...]}."""
    figure = Figure(figsize=(7, 3.2), dpi=120)
    axis = figure.subplots()
    colours = ("#8e8e93", "#0a66c2", "#d97706", "#15803d")
    for (name, lines), colour in zip(runs.items(), colours, strict=False):
        for k, (iterations, values) in enumerate(lines):
            label = name if k == 0 else None
            axis.plot(iterations, values, color=colour, linewidth=1.6, label=label)
    axis.set(xlabel="iteration", ylabel=ylabel)
    _plain(axis)
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


Line = tuple[list[float], list[float]]  # x, y


def panels(lines: dict[str, dict[str, Line]], *, xlabel: str) -> Figure:
    """Draw what several runs measured, one panel a quantity: {ylabel: {run: (x, y)}}.

    A run has its colour and dashes in all panels; the colours are Okabe and Ito's, which the
    colour-blind tell apart, and after eight runs the dashes change. Few points are marked.
    """
    names = list(dict.fromkeys(name for runs in lines.values() for name in runs))
    styles = {
        name: {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k // len(COLOURS) % 4]}
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
