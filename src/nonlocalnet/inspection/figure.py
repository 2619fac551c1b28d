"""Pictures of attention: the paper's Figure 3, and heat on every frame, for one query."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Literal, get_args

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle
from matplotlib.patheffects import Stroke

from nonlocalnet.errors import check_choice
from nonlocalnet.inspection.analysis import Attention
from nonlocalnet.inspection.geometry import Axis
from nonlocalnet.inspection.heat import NEGATIVE, POSITIVE, heat_of, lifted, paint

Style = Literal["arrows", "heat", "both"]

FAINT = 0.02  # relative to the heaviest; no arrow below
MOST_FRAMES, IN_A_ROW = 32, 8
WIDE = 12.4  # inches, a whole row
LETTERS = 12  # of the title to an inch


def figure3(
    frames: torch.Tensor,
    attention: Attention,
    *,
    top: int = 20,
    title: str = "",
    style: Style = "both",
    times: Sequence[float] | None = None,
) -> Figure:
    """Draw the clip in a row, the query framed, and arrows to the heaviest keys.

    Everything lies where the network's layers put it: the query's cell and the centers of the
    keys' cells, to the fraction of a pixel. Light and arrows go to keys that have more than an even
    share, and grow with what is beyond it; amber is positive, blue negative, and a bar says what
    the light means. An even row has neither, and a sentence instead of the bar. More than 8 frames
    take several rows; of more than 32, some are shown.

    Args:
        frames: (T, 3, H, W) uint8 RGB, the clip that attention was computed for.
        attention: from `Analysis.attention`.
        top: at most how many arrows; a key below 2% of the brightest gets none.
        title: above the row, in one or several lines.
        style: "arrows" on the plain frames (the paper's figure), "heat" on every frame, or "both".
        times: of the frames, seconds.

    Returns:
        A matplotlib figure, to be saved or shown.
    """
    check_choice("style", style, get_args(Style))
    count, _, height, width = frames.shape
    queries, keys = lifted(attention, frames)
    heat = heat_of(attention, frames)
    query = _place(attention, queries)
    now = min(int(query[0]), count - 1)
    shown = _choose(count, now)
    per_row = _per_row(len(shown), height / width)
    rows = -(-len(shown) // per_row)
    side = WIDE / per_row if len(shown) > 1 else 6.4
    across = int(LETTERS * side * per_row)
    said = (title or attention.block).split("\n")
    lines = [line for part in said for line in wrap(part, across)] or [""]
    head = 0.36 + 0.17 * (len(lines) - 1)
    size = (side * per_row, (side * height / width + 0.28) * rows + 0.59 + head)
    figure = Figure(figsize=size, dpi=120)
    axes = list(figure.subplots(rows, per_row, squeeze=False).flat)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    shares = attention.shares.reshape(keys[0].count, -1).sum(1)
    told: set[int] = set()
    for frame, axis in zip(shown, axes, strict=False):
        plain = frames[frame].permute(1, 2, 0).numpy()
        dark = style != "arrows" and not attention.attends_evenly
        picture = paint(frames[frame], heat[frame]) if dark else plain
        axis.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
        axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        if count > 1:
            when = f"frame {frame}" if times is None else f"{times[frame]:.2f} s"
            step = keys[0].nearest(frame + 0.5)
            if step not in told:  # frames of one moment have its share together
                when += f" · {shares[step]:.0%}"
            told.add(step)
            axis.set_xlabel(when, fontsize=8, labelpad=2)
    _frame_query(axes[shown.index(now)], attention, queries)
    if style != "heat":
        _draw_arrows(figure, axes, shown, attention, keys, (axes[shown.index(now)], query), top)
    figure.text(0.012, 1 - 0.1 / size[1], "\n".join(lines), fontsize=10, va="top")
    figure.subplots_adjust(
        *(0.01, 0.72 / size[1], 0.99, 1 - head / size[1]), wspace=0.03, hspace=0.16 * size[1] / 10
    )
    _draw_legend(figure, attention, count > 1)
    return figure


def _place(attention: Attention, queries: Sequence[Axis]) -> tuple[float, ...]:
    index = (0,) * (3 - len(attention.query)) + attention.query
    return tuple(axis.start + i * axis.stride for axis, i in zip(queries, index, strict=True))


def _choose(count: int, now: int) -> list[int]:
    """Choose frames to show, spread evenly, the query's among them."""
    if count <= MOST_FRAMES:
        return list(range(count))
    step = -(-count // MOST_FRAMES)
    return list(range(now % step, count, step))


def _per_row(count: int, aspect: float) -> int:
    return min(count, IN_A_ROW if aspect > 0.4 else 1)


def _frame_query(axis: Axes, attention: Attention, queries: Sequence[Axis]) -> None:
    index = (0,) * (3 - len(attention.query)) + attention.query
    (top, bottom), (left, right) = (queries[k].cell(index[k]) for k in (1, 2))
    for width, color in ((4.5, "black"), (2.2, "white")):
        corner = (left, top)
        axis.add_patch(
            Rectangle(
                corner,
                right - left,
                bottom - top,
                fill=False,
                edgecolor=color,
                linewidth=width,
                zorder=4,
            )
        )


def _draw_arrows(
    figure: Figure,
    axes: Sequence[Axes],
    shown: Sequence[int],
    attention: Attention,
    keys: Sequence[Axis],
    start: tuple[Axes, tuple[float, ...]],
    top: int,
) -> None:
    light = attention.light.numpy().reshape([axis.count for axis in keys])
    for flat in np.argsort(-np.abs(light), axis=None, kind="stable")[:top]:
        index = np.unravel_index(flat, light.shape)
        strength = float(abs(light[index]))
        if strength < FAINT:
            break
        t, y, x = (axis.start + int(i) * axis.stride for axis, i in zip(keys, index, strict=True))
        nearest = min(range(len(shown)), key=lambda i: (abs(shown[i] + 0.5 - t), -shown[i]))
        color = np.array(POSITIVE if light[index] >= 0 else NEGATIVE) / 255
        width = 0.5 + 1.7 * strength
        arrow = ConnectionPatch(
            (start[1][2], start[1][1]),
            (x, y),
            "data",
            "data",
            axesA=start[0],
            axesB=axes[nearest],
            arrowstyle="-|>",
            mutation_scale=6 + 4 * strength,
            linewidth=width,
            color=color,
            alpha=0.45 + 0.55 * strength,
            zorder=5,
        )
        arrow.set_path_effects(
            [Stroke(linewidth=width + 1.4, foreground=(0, 0, 0, 0.55)), Stroke()]
        )
        figure.add_artist(arrow)


def _draw_legend(figure: Figure, attention: Attention, many: bool) -> None:
    """Say what the light means: how many times an even share a place gets."""
    width, height = figure.get_size_inches()
    share = 1 / attention.count
    if attention.attends_evenly:
        text = f"all {attention.count} places get much the same: there is nothing to see"
        if not attention.normalized:
            text += f" · the weights add up to {float(attention.weights.abs().sum()):.2g}"
        figure.text(0.012, 0.355 / height, text, fontsize=8, va="center")
        return
    signed = attention.pairwise == "dot_product"
    largest = float(attention.shares.max()) / share
    left = 0.012 + 0.25 / width  # room for half of a label
    axis = figure.add_axes((left, 0.3 / height, 1.7 / width, 0.11 / height))
    ramp = np.linspace(-1 if signed else 0, 1, 128, dtype=np.float32)[None]
    gray = torch.full((3, 1, 128), 150, dtype=torch.uint8)
    axis.imshow(paint(gray, ramp), aspect="auto", extent=(float(ramp[0, 0]), 1, 0, 1))
    axis.set(yticks=[], xticks=[-1, 0, 1] if signed else [0, 1])
    end = f"{largest:.3g} x"
    axis.set_xticklabels([end, "even", end] if signed else ["even", end], fontsize=7)
    axis.tick_params(length=2, pad=1)
    axis.spines[:].set_visible(False)
    said = [f"light: how many times an even share ({_percent(share)}) a place gets"]
    if signed:
        said.append("blue: negative weights")
    if many:
        said.append("percentages under frames: attention to that moment, up to the next one")
    text = (" · " if many else "\n").join(said)
    figure.text(left + 1.95 / width, 0.355 / height, text, fontsize=8, va="center")


def _percent(share: float) -> str:
    """Round to three digits."""
    return f"{100 * share:.3g}%"
