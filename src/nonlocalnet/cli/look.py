"""Draw what a point of a video or an image attends to: the paper's Figure 3, a film, or a page to
explore."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.table import Table

from nonlocalnet.cli.network import load_network
from nonlocalnet.detection.networks import is_detector
from nonlocalnet.inspection.figure import Style
from nonlocalnet.inspection.look import Look, look
from nonlocalnet.inspection.save import WRITERS, check_path, save
from nonlocalnet.runtime.device import pick_device
from nonlocalnet.runtime.log import console, print_table, status


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet look`."""

    file: tyro.conf.Positional[Path]
    """A video file; for a detector, an image file."""
    weights: Path
    """Weights of any known format, such as the model.safetensors of `nonlocalnet train`, or the
    name of a release (nonlocalnet zoo)."""
    clip: str | None = None
    """FRAMESxRATE, where the weights do not say it."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: arguments of the network that the weights do not say."""
    block: str | None = None
    """Which non-local block: its number in the page, from 1, or its module path, such as
    res4.non_local1; the last one by default."""
    at: str | None = None
    """T,X,Y: the point, as frame of the clip and pixel of the video; X,Y in an image; by default
    the most telling one, whose attention is most its own."""
    moment: str = "0.5"
    """Where in the video the clip lies, from 0 (first) to 1 (last); or in seconds, such as 1.5s:
    the clip whose middle is nearest to that."""
    crop: bool = False
    """Look at the center crop that networks are tested on, instead of whole frames."""
    top: int = 20
    """How many arrows."""
    out: tuple[Path, ...] = (Path("look.html"),)
    """Files to write, by their endings: .html (to explore), .png (a picture), .mp4 (a film), .json
    (numbers)."""
    style: Style = "both"
    """What the picture shows: arrows (the paper's Figure 3), heat on every frame, or both."""
    max_mib: float = 32.0
    """Largest size of the .html; for long clips, points are then on a coarser grid."""
    json: bool = False
    """Print the numbers as JSON, instead of a table."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU if there is one."""


def command(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    for path in options.out:
        if path.suffix.lower() not in WRITERS:
            raise ValueError(f"--out must end in {', '.join(WRITERS)}; got {path}")
    if options.top < 1:
        raise ValueError(f"--top must be at least 1; got {options.top}")
    model = load_network(options.weights, options.clip, options.set)
    model.to(pick_device(options.device))
    detects = is_detector(model)
    if not detects:
        model.to(memory_format=torch.channels_last_3d)
    found = look(
        model,
        options.file,
        None if options.at is None else _point(options.at, 2 if detects else 3),
        block=_block(options.block),
        top=options.top,
        moment=_moment(options.moment),
        crop=options.crop,
    )
    for path in options.out:
        check_path(found, path)
    for path in options.out:
        extra = {".png": {"style": options.style}, ".html": {"max_mib": options.max_mib}}
        save(found, path, **extra.get(path.suffix.lower(), {}))
        status.print(f"wrote {path}", soft_wrap=True)
    if options.json:
        print(json.dumps(found.numbers()))
    else:
        _print(found)
    return 0


def _point(text: str, axes: int) -> tuple[float, ...]:
    try:
        at = tuple(float(word) for word in text.split(","))
    except ValueError:
        at = ()
    if len(at) != axes:
        said = {2: "X,Y: pixel of the image", 3: "T,X,Y: frame of the clip and pixel of the video"}
        raise ValueError(f'--at is {said[axes]}; got "{text}"')
    return at


def _block(text: str | None) -> str | int | None:
    """Read a layer's number; a module path is no number in a network of a file."""
    return int(text) if text is not None and text.isdecimal() else text


def _moment(text: str) -> float | str:
    """Read a part of the video; seconds are left to `look`."""
    try:
        return float(text)
    except ValueError:
        return text


def _print(found: Look) -> None:
    numbers = found.numbers()
    if found.prediction:
        console.print(", ".join(f"{name} {p:.1%}" for name, p in found.prediction))
    number, total = found.layer
    layer = f"layer {number} of {total} ({found.block.name})"
    console.print(f"{layer}: {found.evenly or found.reason}", soft_wrap=True)
    timed = len(found.analysis.size) == 3
    columns = ["same frame", "pixels away", "frames away"] if timed else ["pixels away"]
    table = Table("layer", "spread over", *columns, "common")
    for i, (name, block) in enumerate(numbers["blocks"].items(), 1):
        mean, even = block["mean"], block["even"]
        common = "" if block["common"] is None else f"{block['common']:.0%}"
        cells = [f"{mean['distance']:.0f} ({even['distance']:.0f})"]
        if timed:
            cells = [
                f"{mean['same_frame']:.1%} ({even['same_frame']:.1%})",
                *cells,
                f"{mean['frames']:.1f} ({even['frames']:.1f})",
            ]
        spread = "all, evenly" if block["evenly"] else f"{mean['places']:.0f} of {block['keys']}"
        table.add_row(f"{i} {name}", spread, *cells, common)
    print_table(table)
    console.print("means over positions; in brackets, if every position saw all alike")
