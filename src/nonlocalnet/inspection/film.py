"""Attention as a film: the point on the left, what it attends to on the right, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nonlocalnet.data.video.write import write_video
from nonlocalnet.inspection.analysis import Attention
from nonlocalnet.inspection.geometry import Axis
from nonlocalnet.inspection.heat import NEGATIVE, POSITIVE, heat_of, lifted, paint

SHORT_SIDE = 320  # pixels of a panel, at least
GAP, FOOT, LINES = 12, 56, 2
SECONDS = 6.0  # a shorter film is repeated
BACKGROUND, INK = (18, 20, 23), (240, 240, 236)
FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


def animate(
    path: Path,
    frames: torch.Tensor,
    attention: Attention,
    *,
    top: int = 20,
    title: str = "",
    times: Sequence[float] | None = None,
    fps: int = 4,
) -> None:
    """Write a film (.mp4): the query's frame stands still on the left, the clip runs on the right.

    The running frame is lit where the query attends to, as in `figure3`, with a dot on each of the
    heaviest keys of that moment, larger for brighter ones. An even row has neither.

    Args:
        path: the file.
        frames: (T, 3, H, W) uint8 RGB.
        attention: from `Analysis.attention`.
        top: how many keys of the whole clip get a dot.
        title: in one line or two.
        times: as in `figure3`.
        fps: frames a second.
    """
    queries, keys = lifted(attention, frames)
    heat = heat_of(attention, frames)
    index = (0,) * (3 - len(attention.query)) + attention.query
    now = min(int(queries[0].start + index[0] * queries[0].stride), len(frames) - 1)
    scale = max(1.0, SHORT_SIDE / min(frames.shape[2:]))
    still = _enlarge(frames[now].permute(1, 2, 0).numpy(), scale)
    (y0, y1), (x0, x1) = (queries[k].cell(index[k]) for k in (1, 2))
    box = [scale * value for value in (x0, y0, x1, y1)]
    draw = ImageDraw.Draw(still)
    draw.rectangle(box, outline="black", width=6)
    draw.rectangle(box, outline="white", width=3)
    shares = attention.shares.numpy().reshape([axis.count for axis in keys])
    film = []
    for frame in range(len(frames)):
        plain = frames[frame].permute(1, 2, 0).numpy()
        dark = not attention.attends_evenly
        lit = _enlarge(paint(frames[frame], heat[frame]) if dark else plain, scale)
        step = keys[0].nearest(frame + 0.5)
        _dot(ImageDraw.Draw(lit), attention, keys, step, scale, top)
        when = f"frame {frame}" if times is None else f"{times[frame]:.2f} s"
        here = f"{when}: {shares[step].sum():.0%} of the attention\n"
        here += "light: where the framed point looks" if dark else "attends evenly: nothing to see"
        film.append(_join(still, lit, title or attention.block, here))
    times_over = max(1, round(SECONDS * fps / len(film)))
    write_video(path, np.stack(film * times_over), fps=fps)


def _enlarge(picture: NDArray[np.uint8], scale: float) -> Image.Image:
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    # cells keep their edges
    return image.resize((round(width * scale), round(height * scale)), Image.Resampling.BOX)


def _dot(
    draw: ImageDraw.ImageDraw,
    attention: Attention,
    keys: Sequence[Axis],
    step: int,
    scale: float,
    top: int,
) -> None:
    light = attention.light.numpy().reshape([axis.count for axis in keys])
    size = np.abs(light)
    for flat in np.argsort(-size, axis=None, kind="stable")[:top]:
        t, y, x = (int(i) for i in np.unravel_index(flat, light.shape))
        if t != step or not size[t, y, x]:
            continue
        center = [scale * (keys[k].start + i * keys[k].stride) for k, i in ((2, x), (1, y))]
        radius = 3 + 6 * float(size[t, y, x])
        circle = [center[0] - radius, center[1] - radius, center[0] + radius, center[1] + radius]
        color = POSITIVE if light[t, y, x] >= 0 else NEGATIVE
        draw.ellipse(circle, fill=color, outline="black", width=2)


def _join(still: Image.Image, running: Image.Image, title: str, here: str) -> NDArray[np.uint8]:
    width, height = 2 * still.width + GAP, still.height + FOOT
    page = Image.new("RGB", (width + width % 2, height + height % 2), BACKGROUND)
    page.paste(still, (0, 0))
    page.paste(running, (still.width + GAP, 0))
    draw, font = ImageDraw.Draw(page), ImageFont.truetype(str(FONT), 17)
    for x, words in ((8, title), (still.width + GAP + 8, here)):
        lines = words.split("\n")[:LINES]
        for i, text in enumerate(lines):
            while font.getlength(text) > still.width - 12 and len(text) > 4:
                text = text[:-2].rstrip() + "…"
            y = still.height + FOOT * (i + 0.5) / len(lines)
            draw.text((x, y), text, INK, font, anchor="lm")
    return np.asarray(page)
