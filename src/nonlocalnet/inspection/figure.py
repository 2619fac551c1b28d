"""Draw attention as a picture: the arrows of the paper's Figure 3, and brightness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, get_args

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle
from matplotlib.patheffects import Stroke

from nonlocalnet.errors import check_choice
from nonlocalnet.inspection.attention import Attention
from nonlocalnet.inspection.geometry import Axis
from nonlocalnet.inspection.heat import NEGATIVE, POSITIVE, heat_of, lifted, paint, query_of
from nonlocalnet.inspection.scene import Scene
from nonlocalnet.options import Style
from nonlocalnet.runtime.atomic import write_atomically

FAINT = 0.02  # relative to the brightest key: below, there is no arrow
MOST_FRAMES, IN_A_ROW = 32, 8
WIDE = 12.4  # inches, a full row
LETTERS = 12  # of the title per inch


def write(scene: Scene, path: Path, **options: Any) -> None:
    """Write a picture (.png); options are those of `draw_figure`."""
    number, total = scene.layer
    names = ", ".join(part for part in (scene.block.name, scene.block.shown) if part)
    layer = f"layer {number} of {total} ({names})"
    best = [f"prediction: {name} ({p:.0%})" for name, p in scene.prediction[:1]]
    lines = [" · ".join(part for part in (scene.title, *best) if part)]
    if scene.evenly:
        lines += [f"{scene.evenly} · {layer}"]
    else:
        lines += [f"what the framed point attends to · {layer}", scene.reason]
    title = "\n".join(line[:1].upper() + line[1:] for line in lines if line)
    defaults: dict[str, Any] = {"top": scene.top, "title": title, "times": scene.times}
    figure = draw_figure(scene.frames, scene.attention, **{**defaults, **options})
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def draw_figure(
    frames: torch.Tensor,
    attention: Attention,
    *,
    top: int = 20,
    title: str = "",
    style: Style = "both",
    times: Sequence[float] | None = None,
) -> Figure:
    """Draw the frames of a clip, a frame around the query, and arrows to the heaviest keys.

    The query's cell and the centers of the keys follow from the layers of the network, to the
    fraction of a pixel. Keys with more than an even share are bright and get arrows, the more so
    the larger the excess; amber is positive, blue negative, and a color bar gives the scale. An
    even row has no brightness, no arrows, and a sentence instead of the bar. More than 8 frames
    take several rows; of more than 32, a selection is shown.

    Args:
        frames: (T, 3, H, W) uint8 RGB, the clip that the attention was computed for.
        attention: from `Analysis.attention`.
        top: maximum number of arrows; keys below 2% of the brightest get none.
        title: of one or more lines; by default the block.
        style: "arrows" on plain frames (the paper's figure), "heat" for brightness, or "both".
        times: time of each frame, seconds.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: the style is unknown.
    """
    check_choice("style", style, get_args(Style))
    count, _, height, width = frames.shape
    queries, keys = lifted(attention, frames)
    heat = heat_of(attention, frames)
    query = tuple(axis.center(i) for axis, i in zip(queries, query_of(attention), strict=True))
    now = min(int(query[0]), count - 1)
    shown = _choose(count, now)
    per_row = _per_row(len(shown), height / width)
    rows = -(-len(shown) // per_row)
    side = WIDE / per_row if len(shown) > 1 else 6.4
    across = int(LETTERS * side * per_row)
    parts = (title or attention.block).split("\n")
    lines = [line for part in parts for line in wrap(part, across)] or [""]
    head = 0.36 + 0.17 * (len(lines) - 1)
    size = (side * per_row, (side * height / width + 0.28) * rows + 0.59 + head)
    figure = Figure(figsize=size, dpi=120)
    axes = list(figure.subplots(rows, per_row, squeeze=False).flat)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    shares = attention.shares.reshape(keys[0].count, -1).sum(1)
    labeled: set[int] = set()
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
            if step not in labeled:  # the frames of a temporal position share one label
                when += f" · {shares[step]:.0%}"
            labeled.add(step)
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


def _choose(count: int, now: int) -> list[int]:
    """Choose evenly spaced frames to show, the query's among them."""
    if count <= MOST_FRAMES:
        return list(range(count))
    step = -(-count // MOST_FRAMES)
    return list(range(now % step, count, step))


def _per_row(count: int, aspect: float) -> int:
    return min(count, IN_A_ROW if aspect > 0.4 else 1)


def _frame_query(axis: Axes, attention: Attention, queries: Sequence[Axis]) -> None:
    _, y, x = query_of(attention)
    (top, bottom), (left, right) = queries[1].cell(y), queries[2].cell(x)
    for width, color in ((4.5, "black"), (2.2, "white")):
        style: dict[str, Any] = {"edgecolor": color, "linewidth": width, "zorder": 4}
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **style))


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
        t, y, x = (axis.center(int(i)) for axis, i in zip(keys, index, strict=True))
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
    """Draw the color bar, and explain it: how many times an even share a place gets."""
    width, height = figure.get_size_inches()
    share = 1 / attention.count
    relative = attention.each_frame
    if attention.attends_evenly:
        text = f"all {attention.count} places get about the same: there is nothing to see"
        if not attention.normalized:
            text += f" · the weights add up to {float(attention.weights.abs().sum()):.2g}"
        figure.text(0.012, 0.355 / height, text, fontsize=8, va="center")
        return
    signed = attention.pairwise == "dot_product"
    largest = float(attention.shares.max()) / share
    most = "most in the frame" if relative else f"{largest:.3g} x"
    left = 0.012 + 0.25 / width  # space for half of a label
    axis = figure.add_axes((left, 0.3 / height, 1.7 / width, 0.11 / height))
    ramp = np.linspace(-1 if signed else 0, 1, 128, dtype=np.float32)[None]
    gray = torch.full((3, 1, 128), 150, dtype=torch.uint8)
    axis.imshow(paint(gray, ramp), aspect="auto", extent=(float(ramp[0, 0]), 1, 0, 1))
    axis.set(yticks=[], xticks=[-1, 0, 1] if signed else [0, 1])
    axis.set_xticklabels([most, "even", most] if signed else ["even", most], fontsize=7)
    axis.tick_params(length=2, pad=1)
    axis.spines[:].set_visible(False)
    of = "each frame's own" if relative else f"an even share ({100 * share:.3g}%)"
    notes = [f"brightness: attention relative to {of}"]
    if signed:
        notes.append("blue: negative weights")
    if many:
        notes.append("percentages: attention to the frames from there to the next percentage")
    text = (" · " if many else "\n").join(notes)
    figure.text(left + 1.95 / width, 0.355 / height, text, fontsize=8, va="center")
