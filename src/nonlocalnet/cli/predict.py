"""Classify videos: the likeliest classes with their probabilities."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.table import Table

from nonlocalnet.cli.network import load_network
from nonlocalnet.cli.options import check_positive
from nonlocalnet.data.video.reader import VideoError
from nonlocalnet.evaluation.multiview import predict
from nonlocalnet.runtime.device import pick_device
from nonlocalnet.runtime.log import Bar, console, print_table, status

SHOWN = 2  # classes of each of many videos


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet predict`."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Video files."""
    weights: Path
    """Weights of any known format, such as the model.safetensors of `nonlocalnet train`, or the
    name of a release (nonlocalnet zoo)."""
    clip: str | None = None
    """FRAMESxRATE, where the weights do not say it."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: arguments of the network that the weights do not say."""
    top: int = 5
    """How many classes to give; the table of many videos has two of each."""
    num_clips: int = 10
    """Clips of each video; 1 is the middle one."""
    num_crops: Literal[1, 3, 6] = 1
    """Crops of each clip: 1 in the center, 3 along the longer side, 6 with their mirror images."""
    side: int | None = None
    """Short side of the frames, pixels; by default as the weights say."""
    crop: int | Literal["whole"] | None = None
    """Side of the crops, pixels, by default the short side; "whole" takes all of the frame."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU if there is one."""
    json: bool = False
    """Print one JSON object a video instead of a table."""


def command(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    if not options.videos:
        raise ValueError("name at least one video: nonlocalnet predict VIDEO --weights W")
    check_positive(options, "top", "num_clips", "side", "crop")
    model = load_network(options.weights, options.clip, options.set, takes="videos")
    model.to(pick_device(options.device)).to(memory_format=torch.channels_last_3d)
    names = ("top", "num_clips", "num_crops", "side", "crop")
    views: dict[str, Any] = {name: getattr(options, name) for name in names}
    found: dict[Path, list[tuple[str, float]]] = {}
    videos = tuple(dict.fromkeys(options.videos))
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
    finally:  # what an error or Ctrl-C leaves
        if found and not options.json:
            _print(found, one=len(videos) == 1)
    failed = len(videos) - len(found)
    if failed and len(videos) > 1:
        status.print(f"{failed} of {len(videos)} videos could not be read", soft_wrap=True)
    return 2 if failed else 0


def _print(found: dict[Path, list[tuple[str, float]]], *, one: bool) -> None:
    """Print all classes of one video, or the likeliest two of each of many."""
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
