"""Follow points through a video: every position takes them from the positions that it attends to
in earlier frames. Nothing is trained for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from nonlocalnet.cli.network import NetworkOptions, check_weights, load_network
from nonlocalnet.errors import check_choice
from nonlocalnet.inspection.follow_files import SUFFIXES, as_plain, save
from nonlocalnet.options import check_paths, setting

if TYPE_CHECKING:
    from nonlocalnet.inspection.follow import Followed


def parse_at(text: str) -> tuple[float, bool, float, float]:
    """Read "T,X,Y" with T a frame, or seconds such as "1.5s": (T, whether seconds, x, y)."""
    try:
        when, x, y = text.split(",")
        seconds = when.endswith("s")
        point = float(when.removesuffix("s")), seconds, float(x), float(y)
        if point[0] >= 0 and math.isfinite(point[0]) and (seconds or point[0].is_integer()):
            return point
    except ValueError:
        pass
    raise ValueError(
        f'--at is T,X,Y: frame of the video (or seconds, such as 1.5s) and pixel; got "{text}"'
    )


def parse_points(texts: tuple[str, ...]) -> list[tuple[float, bool, float, float]]:
    """Read several points of one frame."""
    points = [parse_at(text) for text in texts]
    if len({point[:2] for point in points}) > 1:
        raise ValueError(f"--at must name points of one frame; got {' '.join(texts)}")
    return points


@dataclass(frozen=True, kw_only=True)
class Options(NetworkOptions):
    """Options of `nonlocalnet follow`."""

    file: tyro.conf.Positional[Path] = setting(names="a video file")
    """A video file."""
    at: tuple[str, ...] = setting(parse=parse_points)
    """T,X,Y of each point: frame of the video, or seconds such as 1.5s, and pixel. All are points
    of one frame; they are followed from there to the end."""
    layer: str | None = None
    """Module path of the block, or of another layer, that compares; default: the last block."""
    fps: float = setting(4.0, above=0, below=math.inf)
    """Frames a second to follow the points in; others of the video are left out."""
    seconds: float | None = setting(None, above=0, below=math.inf)
    """How long to follow them; default: to the end of the video."""
    side: int | None = setting(None, least=1)
    """Short side of the frames that the network sees, in pixels; default: that of the weights, at
    most 256."""
    radius: float | None = setting(None, above=0, below=math.inf)
    """The farthest that something moves from frame to frame, in pixels of the video."""
    out: tuple[Path, ...] = (Path("follow.mp4"),)
    """Files to write; the suffix decides: .mp4 (film), .png (picture), .csv or .json (seconds, x, y
    and confidence of each point in each frame)."""
    json: bool = False
    """Print the positions as JSON instead of a table."""


def command(options: Options) -> int:
    for path in options.out:
        check_choice("ending of the file", path.suffix.lower(), SUFFIXES)
    check_weights(options.weights)
    check_paths(options)

    import json

    from nonlocalnet.inspection.follow import follow
    from nonlocalnet.runtime.log import status

    model = load_network(
        options.weights, None, options.set, options.device, takes="videos", compares=True
    )
    points = parse_points(options.at)
    when, in_seconds = points[0][:2]
    found = follow(
        model,
        options.file,
        [(x, y) for _, _, x, y in points],
        start=f"{when}s" if in_seconds else int(when),
        layer=options.layer,
        fps=options.fps,
        seconds=options.seconds,
        short_side=options.side or "auto",
        radius=options.radius,
    )
    for path in options.out:
        save(found, path)
        status.print(f"wrote {path}", soft_wrap=True)
    if options.json:
        print(json.dumps(as_plain(found)))
    else:
        _print(found)
    return 0


def _print(found: Followed) -> None:
    from rich.table import Table

    from nonlocalnet.runtime.log import console, print_table

    plain = as_plain(found)
    for point in plain["points"]:
        table = Table("seconds", "x", "y", "confidence")
        for row in point["positions"]:
            sure = f"{row['confidence']:.0%}" + (" (lost)" if row["lost"] else "")
            table.add_row(f"{row['seconds']:.2f}", f"{row['x']:.0f}", f"{row['y']:.0f}", sure)
        print_table(table)
    console.print(f"compared: {plain['layer']}, every frame by itself", soft_wrap=True)
