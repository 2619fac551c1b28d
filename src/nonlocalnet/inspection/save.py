"""What is seen, as a file: a picture, a film, a page or numbers, by the file's ending."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nonlocalnet.errors import check_choice
from nonlocalnet.inspection.look import Look
from nonlocalnet.runtime.checkpoint import write_atomically


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


def _caption(look: Look) -> dict[str, Any]:
    named = f"{look.prediction[0][0]} ({look.prediction[0][1]:.0%})" if look.prediction else ""
    parts = [part for part in (look.title, named, look.block.name, look.reason) if part]
    return {"top": look.top, "title": " · ".join(parts), "times": look.times}


def _write_picture(look: Look, path: Path, **options: Any) -> None:
    from nonlocalnet.inspection.draw import figure3

    figure = figure3(look.frames, look.attention, **{**_caption(look), **options})
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _write_film(look: Look, path: Path, **options: Any) -> None:
    from nonlocalnet.inspection.animation import animate

    animate(path, look.frames, look.attention, **{**_caption(look), **options})


def _write_page(look: Look, path: Path, **options: Any) -> None:
    from nonlocalnet.inspection.document import write_page

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
