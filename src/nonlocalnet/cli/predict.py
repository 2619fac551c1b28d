"""Classify videos: print the most probable classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from nonlocalnet.cli.network import VideoNetworkOptions, check_weights, load_network
from nonlocalnet.errors import FileError
from nonlocalnet.options import setting

SHOWN = 2  # classes of each of many videos


@dataclass(frozen=True, kw_only=True)
class Options(VideoNetworkOptions):
    """Options of `nonlocalnet predict`."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Video files."""
    top: int = setting(5, least=1)
    """Number of classes to print; the table for several videos has two of each."""
    num_clips: int | None = setting(None, least=1)
    """Clips per video; 1 takes the middle one; default: that of the weights (10; of segments 1)."""
    num_crops: Literal[1, 3, 6, 10] = 1
    """Crops per clip: 1 in the center, 3 along the longer side, 6 with their mirror images, 10 in
    the corners and the center with theirs."""
    side: int | None = setting(None, least=1)
    """Short side of the frames, in pixels; default: that of the weights."""
    crop: int | Literal["whole"] | None = setting(None, least=1)
    """Side of the crops, in pixels (default: the short side); "whole" takes the whole frame."""
    json: bool = False
    """Print one JSON object per video instead of a table."""


def command(options: Options) -> int:
    if not options.videos:
        raise ValueError("name at least one video: nonlocalnet predict VIDEO --weights W")
    check_weights(options.weights)
    videos = tuple(dict.fromkeys(options.videos))
    if not any(video.exists() for video in videos):
        others = ", and none of the other videos exists" if len(videos) > 1 else ""
        raise FileError(videos[0], f"no such file{others}")

    import json

    from nonlocalnet.data.video.reader import VideoError
    from nonlocalnet.evaluation.multiview import predict
    from nonlocalnet.runtime.log import Bar, status

    network = (options.weights, options.clip, options.set, options.device)
    model = load_network(*network, takes="videos")
    names = ("top", "num_clips", "num_crops", "side", "crop")
    views: dict[str, Any] = {name: getattr(options, name) for name in names}
    found: dict[Path, list[tuple[str, float]]] = {}
    try:
        with Bar("predict", len(videos)) as bar:
            for video in videos:
                try:
                    found[video] = predict(model, video, **views)
                except VideoError as error:
                    status.print(f"nonlocalnet: {error}", soft_wrap=True)
                bar.advance(text=video.name)
                if options.json and video in found:
                    classes = dict(found[video])
                    print(json.dumps({"video": str(video), "classes": classes}), flush=True)
    finally:  # also after an error or Ctrl-C
        if found and not options.json:
            _print(found, one=len(videos) == 1)
    failed = len(videos) - len(found)
    if failed and len(videos) > 1:
        status.print(f"{failed} of {len(videos)} videos could not be read", soft_wrap=True)
    return 2 if failed else 0


def _print(found: dict[Path, list[tuple[str, float]]], *, one: bool) -> None:
    """Print all classes of one video, or the two most probable ones of each of several."""
    from rich.table import Table

    from nonlocalnet.runtime.log import console, print_table

    if one:
        (video, best), *_ = found.items()
        table = Table("class", "probability", title=video.name, title_justify="left")
        for name, probability in best:
            table.add_row(name, f"{probability:.3f}")
        print_table(table)
        return
    home = os.path.commonpath([os.path.abspath(video.parent) for video in found])
    shown = min(SHOWN, max(map(len, found.values())))
    table = Table("video", *("class", "p", "then", "p")[: 2 * shown])
    for video, best in found.items():
        pairs = ((name, f"{probability:.3f}") for name, probability in best[:shown])
        table.add_row(os.path.relpath(video, home), *(cell for pair in pairs for cell in pair))
    print_table(table)
    if max(map(len, found.values())) > shown:
        console.print("--json prints more classes of each")
