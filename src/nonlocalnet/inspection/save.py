"""What is seen, as a file: a picture, a film, a page or numbers, by the file's ending."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nonlocalnet.errors import check_choice
from nonlocalnet.inspection.look import Look
from nonlocalnet.runtime.atomic import write_atomically


def save(look: Look, path: Path, **options: Any) -> Path:
    """Write a look to a file: see `Look.save`."""
    check_path(look, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[path.suffix.lower()](look, path, **options)
    return path


def check_path(look: Look, path: Path) -> None:
    """Raise a ValueError for an ending that a look has no file of."""
    check_choice("ending of the file", path.suffix.lower(), WRITERS)
    if path.suffix.lower() == ".mp4" and len(look.analysis.size) < 3:
        raise ValueError(f"{path}: only a video makes a film; write .html, .png or .json instead")


def _named(look: Look) -> str:
    """Say what is looked at, and what the network says of it."""
    verb = "sees" if look.multi_label else "says"
    said = [f"the network {verb} {name} ({p:.0%})" for name, p in look.prediction[:1]]
    return " · ".join(part for part in (look.title, *said) if part)


def _layer(look: Look) -> str:
    number, total = look.layer
    return f"layer {number} of {total} ({look.block.name})"


def _heading(look: Look) -> str:
    """Say in lines what a picture shows."""
    if look.evenly:
        lines = [_named(look), f"{_sentence(look.evenly)} · {_layer(look)}"]
    else:
        what = "What the framed point takes information from"
        lines = [_named(look), f"{what} · {_layer(look)}", _sentence(look.reason)]
    return "\n".join(line for line in lines if line)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _write_picture(look: Look, path: Path, **options: Any) -> None:
    from nonlocalnet.inspection.figure import figure3

    told: dict[str, Any] = {"top": look.top, "title": _heading(look), "times": look.times}
    figure = figure3(look.frames, look.attention, **{**told, **options})
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _write_film(look: Look, path: Path, **options: Any) -> None:
    from nonlocalnet.inspection.film import animate

    number, total = look.layer  # lines are short beside a film
    said = [f"{name} ({p:.0%})" for name, p in look.prediction[:1]]
    named = " · ".join(part for part in (*said, look.title) if part)
    title = "\n".join(part for part in (f"framed point, layer {number} of {total}", named) if part)
    told: dict[str, Any] = {"top": look.top, "title": title, "times": look.times}
    animate(path, look.frames, look.attention, **{**told, **options})


def _write_page(look: Look, path: Path, **options: Any) -> None:
    from nonlocalnet.inspection.html_page import write_page

    write_page(look, path, **options)


def _write_numbers(look: Look, path: Path) -> None:
    text = json.dumps(look.numbers(), indent=2) + "\n"
    write_atomically(path, lambda file: file.write_text(text))


WRITERS: dict[str, Callable[..., None]] = {
    ".html": _write_page,
    ".png": _write_picture,
    ".mp4": _write_film,
    ".json": _write_numbers,
}
