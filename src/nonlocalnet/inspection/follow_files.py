"""Write points that were followed through a video: the ending of the file selects the form."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nonlocalnet.errors import check_choice
from nonlocalnet.runtime.atomic import write_atomically

if TYPE_CHECKING:  # the table of endings is read before torch is imported
    import numpy as np
    from numpy.typing import NDArray
    from PIL import ImageDraw

    from nonlocalnet.inspection.follow import Followed

SUFFIXES = (".mp4", ".png", ".csv", ".json")
# distinguishable with color blindness, on dark and bright pictures
COLORS = ((255, 176, 0), (100, 143, 255), (220, 38, 127), (254, 97, 0), (120, 94, 240))
PICTURES, IN_A_ROW = 8, 4  # of a .png
WIDE = 12.4  # inches
TRAIL = 12  # frames


def save(found: Followed, path: Path) -> None:
    """Write a film (.mp4), a picture (.png) or the positions (.csv, .json), atomically.

    Raises:
        ValueError: the ending is unknown.
    """
    check_choice("ending of the file", path.suffix.lower(), SUFFIXES)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".mp4":
        _write_film(found, path)
    elif path.suffix.lower() == ".png":
        figure = draw(found)
        write_atomically(path, lambda file: figure.savefig(file, format="png"))
    else:
        text = (
            _table(found)
            if path.suffix.lower() == ".csv"
            else json.dumps(as_plain(found), indent=2)
        )
        write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", newline=""))


def as_plain(found: Followed) -> dict[str, Any]:
    """Return the positions as plain values, for JSON."""
    points, lost = found.points, found.found.lost
    sure = found.found.confidence
    assert sure is not None
    return {
        "title": found.title,
        "layer": found.found.layer,
        "points": [
            {
                "positions": [
                    {
                        "seconds": round(when, 4),
                        "x": round(float(points[t, k, 0]), 2),
                        "y": round(float(points[t, k, 1]), 2),
                        "confidence": round(float(sure[t, k]), 4),
                        "lost": bool(lost[t, k]),
                    }
                    for t, when in enumerate(found.seconds)
                ]
            }
            for k in range(points.shape[1])
        ],
    }


def _table(found: Followed) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["point", "seconds", "x", "y", "confidence", "lost"])
    for k, point in enumerate(as_plain(found)["points"], 1):
        for row in point["positions"]:
            writer.writerow([k, *(int(v) if v is True or v is False else v for v in row.values())])
    return text.getvalue()


def draw(found: Followed, *, title: str = "") -> Any:
    """Draw the points in evenly spaced frames, the first among them.

    Args:
        found: the points.
        title: by default the name of the video.

    Returns:
        A matplotlib figure.
    """
    import numpy as np
    from matplotlib.figure import Figure

    count, _, height, width = found.frames.shape
    shown = sorted(
        set(np.linspace(0, count - 1, min(PICTURES, count)).round().astype(int).tolist())
    )
    per_row = min(IN_A_ROW, len(shown))
    rows = -(-len(shown) // per_row)
    side = WIDE / per_row
    size = WIDE, rows * (side * height / width + 0.28) + 0.45
    figure = Figure(figsize=size, dpi=120)
    axes = list(figure.subplots(rows, per_row, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    lost = found.found.lost
    for t, axis in zip(shown, axes, strict=False):
        axis.imshow(_marked(found, t, max(1.0, 640 / width)))
        gone = [str(k + 1) for k in range(lost.shape[1]) if lost[t, k]]
        words = (
            "" if not gone else " · lost" if lost.shape[1] == 1 else f" · lost: {', '.join(gone)}"
        )
        axis.set_title(f"{found.seconds[t]:.2f} s{words}", fontsize=9, pad=3)
    title = title or f"{found.title} · points followed by attention"
    figure.text(0.012, 1 - 0.1 / size[1], title, fontsize=10, va="top")
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.55 / size[1], wspace=0.03, hspace=0.12)
    return figure


def _marked(found: Followed, t: int, scale: float, trail: bool = True) -> NDArray[np.uint8]:
    """Draw the points of a frame, and the way that they came."""
    import numpy as np
    from PIL import ImageDraw

    from nonlocalnet.inspection.film import enlarge

    picture = enlarge(found.frames[t].permute(1, 2, 0).numpy(), scale)
    pen = ImageDraw.Draw(picture)
    points, lost = found.found.points, found.found.lost
    assert points is not None
    places = ((points + 0.5) * scale).tolist()
    for k in range(points.shape[1]):
        color = COLORS[k % len(COLORS)]
        way = [tuple(places[s][k]) for s in range(max(0, t - TRAIL) if trail else t, t + 1)]
        if len(way) > 1 and not lost[t, k]:
            pen.line(way, fill="black", width=5, joint="curve")
            pen.line(way, fill=color, width=3, joint="curve")
        _ring(pen, way[-1], color, bool(lost[t, k]))
    return np.asarray(picture)


def _ring(pen: ImageDraw.ImageDraw, at: Any, color: Any, lost: bool) -> None:
    """Draw a ring with a dot; for a lost point, a thin ring."""
    x, y = at
    for radius, width, fill in ((11, 1, color),) if lost else ((13, 7, "black"), (11, 3, color)):
        box = [x - radius, y - radius, x + radius, y + radius]
        pen.ellipse(box, outline=fill, width=width)
    if not lost:
        pen.ellipse([x - 3, y - 3, x + 3, y + 3], fill=color, outline="black")


def _write_film(found: Followed, path: Path) -> None:
    import numpy as np
    from PIL import Image

    from nonlocalnet.data.video.write import write_video
    from nonlocalnet.inspection.film import SHORT_SIDE, join

    scale = max(1.0, SHORT_SIDE / min(found.frames.shape[2:]))
    still = Image.fromarray(_marked(found, 0, scale))
    sure, lost = found.found.confidence, found.found.lost
    assert sure is not None
    film = []
    for t, when in enumerate(found.seconds):
        words = ", ".join(
            "lost" if lost[t, k] else f"{float(sure[t, k]):.0%}" for k in range(lost.shape[1])
        )
        here = f"{when:.2f} s · confidence {words}\nfollowed by attention from frame to frame"
        running = Image.fromarray(_marked(found, t, scale))
        film.append(join(still, running, f"the point that is followed\n{found.title}", here))
    spans = np.diff(found.seconds)
    fps = round(1 / float(np.median(spans))) if len(spans) else 4
    write_video(path, np.stack(film), fps=max(1, fps))
