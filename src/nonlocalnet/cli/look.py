"""Show what a point of a video or an image attends to: a figure (as the paper's Figure 3), a film,
or a page to explore."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from nonlocalnet.cli.network import VideoNetworkOptions, check_weights, load_network
from nonlocalnet.options import Style, check_paths, setting

if TYPE_CHECKING:
    from nonlocalnet.inspection.look import Look


def parse_point(text: str) -> tuple[float, ...]:
    """Read "T,X,Y" or "X,Y"."""
    try:
        point = tuple(float(word) for word in text.split(","))
    except ValueError:
        point = ()
    if len(point) not in (2, 3):
        raise ValueError(
            "--at is T,X,Y (frame of the clip and pixel of the video), or X,Y in an image; "
            f'got "{text}"'
        )
    return point


def parse_moment(text: str) -> float | str:
    """Read a part of the video, or seconds such as "1.5s"."""
    try:
        number = float(text.removesuffix("s"))
    except ValueError:
        number = -1.0
    if not 0 <= number <= (math.inf if text.endswith("s") else 1):
        raise ValueError(
            "--moment must be from 0 (first clip) to 1 (last), or seconds such as 1.5s; "
            f"got {text!r}"
        )
    return text if text.endswith("s") else number


@dataclass(frozen=True, kw_only=True)
class Options(VideoNetworkOptions):
    """Options of `nonlocalnet look`."""

    file: tyro.conf.Positional[Path] = setting(names="a video file, or an image for a detector")
    """A video file; for a detector, an image file."""
    block: str | None = None
    """Non-local block: its number in the page, from 1, or its module path, such as
    res4.non_local1; default: the last one."""
    at: str | None = setting(None, parse=parse_point)
    """T,X,Y: the point, as frame of the clip and pixel of the video; X,Y in an image. Default: the
    position whose attention differs most from the average."""
    moment: str = setting("0.5", parse=parse_moment)
    """Position of the clip in the video, from 0 (first) to 1 (last); or in seconds, such as 1.5s:
    the clip whose middle is nearest to that."""
    crop: bool = False
    """Look at the center crop used in testing, instead of whole frames."""
    each_frame: bool = False
    """Make brightness and arrows relative to each frame: where in every frame the point attends to,
    also where its own frame has nearly all of the attention."""
    top: int = setting(20, least=1)
    """Number of arrows."""
    out: tuple[Path, ...] = (Path("look.html"),)
    """Files to write; the suffix decides: .html (page), .png (figure), .mp4 (film), .json
    (numbers)."""
    style: Style = "both"
    """Content of the figure: arrows (as in the paper's Figure 3), heat on every frame, or both."""
    max_mib: float = setting(32.0, above=0)
    """Largest size of the .html; for long clips, the points are then on a coarser grid."""
    json: bool = False
    """Print the numbers as JSON instead of a table."""


def command(options: Options) -> int:
    from nonlocalnet.inspection.writers import WRITERS

    for path in options.out:
        if path.suffix.lower() not in WRITERS:
            raise ValueError(f"--out must end in {', '.join(WRITERS)}; got {path}")
    check_weights(options.weights)
    check_paths(options)

    import json

    from nonlocalnet.inspection.look import look
    from nonlocalnet.inspection.writers import check_path, save
    from nonlocalnet.networks.registry import family_of
    from nonlocalnet.runtime.log import status

    model = load_network(options.weights, options.clip, options.set, options.device, compares=True)
    takes = family_of(model).takes
    at = None if options.at is None else parse_point(options.at)
    if at is not None and len(at) != {"videos": 3, "images": 2}[takes]:
        form = {
            "videos": "T,X,Y: frame of the clip and pixel of the video",
            "images": "X,Y: pixel of the image",
        }[takes]
        raise ValueError(f'--at is {form}; got "{options.at}"')
    block = options.block  # a module path in a network from a file is never a number
    found = look(
        model,
        options.file,
        at,
        block=int(block) if block is not None and block.isdecimal() else block,
        top=options.top,
        moment=parse_moment(options.moment),
        crop=options.crop,
        each_frame=options.each_frame,
    )
    for path in options.out:
        check_path(found, path)
    for path in options.out:
        extra = {".png": {"style": options.style}, ".html": {"max_mib": options.max_mib}}
        save(found, path, **extra.get(path.suffix.lower(), {}))
        status.print(f"wrote {path}", soft_wrap=True)
    if options.json:
        print(json.dumps(found.statistics()))
    else:
        _print(found)
    return 0


def _print(found: Look) -> None:
    from rich.table import Table

    from nonlocalnet.runtime.log import console, print_table

    numbers = found.statistics()
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
    console.print("means over positions; in brackets: if every position attended to all evenly")
