"""Write attention as a video: the point on the left, what it attends to on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nonlocalnet.data.video.write import write_video
from nonlocalnet.inspection.attention import Attention
from nonlocalnet.inspection.geometry import Axis
from nonlocalnet.inspection.heat import NEGATIVE, POSITIVE, heat_of, lifted, paint, query_of
from nonlocalnet.inspection.scene import Scene

SHORT_SIDE = 320  # pixels, of a panel, at least
GAP, FOOT, LINES = 12, 56, 2
SECONDS = 6.0  # shorter clips are repeated
BACKGROUND, INK = (18, 20, 23), (240, 240, 236)
FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


def write(scene: Scene, path: Path, **options: Any) -> None:
    """Write a video (.mp4); options are those of `write_film`."""
    number, total = scene.layer  # half of the width is little space
    best = [f"{name} ({p:.0%})" for name, p in scene.prediction[:1]]
    names = " · ".join(part for part in (*best, scene.title) if part)
    title = "\n".join(part for part in (f"framed point, layer {number} of {total}", names) if part)
    defaults: dict[str, Any] = {"top": scene.top, "title": title, "times": scene.times}
    write_film(path, scene.frames, scene.attention, **{**defaults, **options})


def write_film(
    path: Path,
    frames: torch.Tensor,
    attention: Attention,
    *,
    top: int = 20,
    title: str = "",
    times: Sequence[float] | None = None,
    fps: int = 4,
) -> None:
    """Write a video (.mp4): the query's frame on the left, the clip running on the right.

    The running frame is bright where the query attends to, as in `figure.draw_figure`; the heaviest
    keys of the frame have dots, larger for brighter ones. An even row has neither.

    Args:
        path: the file.
        frames: (T, 3, H, W) uint8 RGB.
        attention: from `Analysis.attention`.
        top: maximum number of keys with dots, in the whole clip.
        title: of one or two lines; by default the block.
        times: time of each frame, seconds.
        fps: frame rate.
    """
    queries, keys = lifted(attention, frames)
    heat = heat_of(attention, frames)
    index = query_of(attention)
    now = min(int(queries[0].center(index[0])), len(frames) - 1)
    scale = max(1.0, SHORT_SIDE / min(frames.shape[2:]))
    still = enlarge(frames[now].permute(1, 2, 0).numpy(), scale)
    (y0, y1), (x0, x1) = (queries[k].cell(index[k]) for k in (1, 2))
    box = [scale * value for value in (x0, y0, x1, y1)]
    draw = ImageDraw.Draw(still)
    draw.rectangle(box, outline="black", width=6)
    draw.rectangle(box, outline="white", width=3)
    shares = attention.shares.numpy().reshape([axis.count for axis in keys])
    film = []
    even = attention.attends_evenly
    words = f"bright: where it attends to{' in this frame' if attention.each_frame else ''}"
    for frame in range(len(frames)):
        plain = frames[frame].permute(1, 2, 0).numpy()
        lit = enlarge(plain if even else paint(frames[frame], heat[frame]), scale)
        step = keys[0].nearest(frame + 0.5)
        _dot(ImageDraw.Draw(lit), attention, keys, step, scale, top)
        when = f"frame {frame}" if times is None else f"{times[frame]:.2f} s"
        here = f"{when}: {shares[step].sum():.0%} of the attention\n"
        here += "attends evenly: nothing to see" if even else words
        film.append(join(still, lit, title or attention.block, here))
    times_over = max(1, round(SECONDS * fps / len(film)))
    write_video(path, np.stack(film * times_over), fps=fps)


def enlarge(picture: NDArray[np.uint8], scale: float) -> Image.Image:
    """Enlarge a picture (H, W, 3); the edges of its pixels stay sharp."""
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
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
        center = [scale * keys[k].center(i) for k, i in ((2, x), (1, y))]
        radius = 3 + 6 * float(size[t, y, x])
        circle = [center[0] - radius, center[1] - radius, center[0] + radius, center[1] + radius]
        color = POSITIVE if light[t, y, x] >= 0 else NEGATIVE
        draw.ellipse(circle, fill=color, outline="black", width=2)


def join(still: Image.Image, running: Image.Image, title: str, here: str) -> NDArray[np.uint8]:
    """Put two pictures side by side, each over lines of text; sizes of the page are even."""
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
