"""Write a timeline: the ending of the file selects the form."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from nonlocalnet.runtime.atomic import write_atomically

if TYPE_CHECKING:  # the table of endings is read before torch is imported
    from nonlocalnet.evaluation.timeline import Timeline

SUFFIXES = (".csv", ".json", ".png", ".html")
PICTURES = 400  # in a page
IN_STRIP = 12  # pictures above the curves
SEGMENT = "#d55e00"  # color of a bar
SHOWN = 12  # classes with a curve


def save(timeline: Timeline, path: Path, *, look: str = "") -> None:
    """Write a timeline.

    Args:
        timeline: what to write.
        path: .csv has the segments; .json segments, curves of all classes and the rule; .png and
            .html show pictures, and the curves of the classes that have segments or the highest
            probabilities.
        look: a command that shows what the network attends to at a moment, "MOMENT" standing for
            the seconds; for the page.
    """
    text = {
        ".csv": _segments,
        ".json": _numbers,
        ".html": lambda timeline: _page(timeline, look),
    }
    if path.suffix.lower() == ".png":
        figure = draw(timeline)
        write_atomically(path, lambda file: figure.savefig(file, format="png"))
        return
    content = text[path.suffix.lower()](timeline)
    write_atomically(path, lambda file: file.write_text(content, encoding="utf-8", newline=""))


def shown_classes(timeline: Timeline) -> list[int]:
    """Choose the classes to show: by the length of their segments, then by highest probability."""
    highest = timeline.probabilities.max(axis=0).tolist()
    lengths = [0.0] * len(highest)
    for segment in timeline.segments:
        lengths[segment.label] += segment.end - segment.start
    order = sorted(range(len(highest)), key=lambda label: (-lengths[label], -highest[label]))
    return order[:SHOWN]


def clock(seconds: float) -> str:
    """Write seconds as a player does.

    >>> clock(7.25), clock(75), clock(3675.0)
    ('0:07.2', '1:15.0', '1:01:15.0')
    """
    tenths = int(seconds * 10 + 1e-6)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{head}:{rest // 10:02}.{rest % 10}"


def draw(timeline: Timeline) -> Any:
    """Draw pictures, and below them the curve of each class with bars for its segments.

    Returns:
        A matplotlib figure.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from PIL import Image

    shown = shown_classes(timeline)
    figure = Figure(figsize=(12, 1.9 + 0.55 * len(shown)), dpi=120, layout="constrained")
    ratios = [2.0, *[1.0] * len(shown)]
    strip, *axes = figure.subplots(len(ratios), 1, height_ratios=ratios)
    strip.set(xlim=(0, timeline.duration), ylim=(0, 1))
    strip.axis("off")
    title = f"{timeline.path.name}, {clock(timeline.duration)}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, parse_math=False)
    for k, place in enumerate(np.linspace(0, 1, IN_STRIP + 1)[:-1]):
        if timeline.pictures:
            middle = (k + 0.5) / IN_STRIP * timeline.duration
            near = min(timeline.pictures, key=lambda m: abs(m * timeline.every - middle))
            picture = strip.inset_axes((place, 0, 0.98 / IN_STRIP, 1))
            picture.imshow(np.asarray(Image.open(io.BytesIO(timeline.pictures[near]))))
            picture.set_title(clock(near * timeline.every), fontsize=7, pad=2)
            picture.axis("off")
    for axis, label in zip(axes, shown, strict=True):
        values = timeline.probabilities[:, label]
        axis.fill_between(timeline.times, values, alpha=0.35, linewidth=0)
        axis.plot(timeline.times, values, linewidth=0.9)
        for segment in timeline.segments:
            if segment.label == label:
                axis.axvspan(segment.start, segment.end, ymax=0.1, color=SEGMENT, linewidth=0)
        axis.set(xlim=(0, timeline.duration), ylim=(0, 1), yticks=[0, 1])
        axis.tick_params(labelsize=7, labelbottom=axis is axes[-1])
        axis.spines[["top", "right"]].set_visible(False)
        axis.text(
            *(0.004, 0.94, timeline.classes[label]),
            transform=axis.transAxes,
            va="top",
            fontsize=8,
            parse_math=False,
        )
    axes[-1].xaxis.set_major_formatter(lambda x, _: clock(x).removesuffix(".0"))
    axes[-1].set_xlabel(timeline.rule, fontsize=7, wrap=True)
    return figure


def print_segments(timeline: Timeline) -> None:
    """Print a table of the segments, or the highest probability if there are none."""
    from rich.table import Table

    from nonlocalnet.runtime.log import console, print_table

    if not timeline.segments:
        place = int(timeline.probabilities.argmax())
        moment, label = divmod(place, len(timeline.classes))
        highest = timeline.probabilities[moment, label]
        console.print(
            f"no class has a smoothed probability of {timeline.threshold:g}; the highest is "
            f"{timeline.classes[label]}, {highest:.3f} at {clock(moment * timeline.every)}",
            soft_wrap=True,
        )
        return
    table = Table("class", "start", "end", "score", title=timeline.path.name, title_justify="left")
    for segment in timeline.segments:
        times = clock(segment.start), clock(segment.end)
        table.add_row(timeline.classes[segment.label], *times, f"{segment.score:.3f}")
    print_table(table)


def _segments(timeline: Timeline) -> str:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class", "start", "end", "score"])
    for segment in timeline.segments:
        numbers = (f"{x:.3f}" for x in (segment.start, segment.end, segment.score))
        table.writerow([timeline.classes[segment.label], *numbers])
    return text.getvalue()


def describe(timeline: Timeline) -> dict[str, Any]:
    """Return the segments, and how they were found, as values for JSON."""
    return {
        "video": str(timeline.path),
        "duration": round(timeline.duration, 3),
        "every": timeline.every,
        "window": timeline.window,
        "threshold": timeline.threshold,
        "rule": timeline.rule,
        **({"error": timeline.error} if timeline.error else {}),
        "segments": [
            {
                "label": segment.label,
                "class": timeline.classes[segment.label],
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "score": round(segment.score, 4),
            }
            for segment in timeline.segments
        ],
    }


def _curves(timeline: Timeline, labels: list[int]) -> list[dict[str, Any]]:
    return [
        {"label": k, "class": timeline.classes[k], "probabilities": timeline.probabilities[:, k]}
        for k in labels
    ]


def _json(values: Any) -> str:
    return json.dumps(values, default=lambda array: [round(x, 4) for x in array.tolist()])


def _numbers(timeline: Timeline) -> str:
    everything = _curves(timeline, list(range(len(timeline.classes))))
    times = [round(time, 6) for time in timeline.times]
    return _json({**describe(timeline), "times": times, "curves": everything}) + "\n"


def _page(timeline: Timeline, look: str) -> str:
    about = {
        **describe(timeline),
        "name": timeline.path.name,
        "classes": len(timeline.classes),
        "curves": _curves(timeline, shown_classes(timeline)),
        "moments": len(timeline.probabilities),
        "look": look,
        "pictures": [
            [moment, "data:image/jpeg;base64," + base64.b64encode(picture).decode()]
            for moment, picture in timeline.pictures.items()
        ],
    }
    page = files("nonlocalnet.evaluation").joinpath("timeline.html").read_text("utf-8")
    return Template(page).substitute(
        title=html.escape(timeline.path.name),
        about=_json(about).replace("<", "\\u003c"),
    )
