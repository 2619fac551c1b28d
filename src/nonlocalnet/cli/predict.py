"""Classify videos: the likeliest classes with their probabilities."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.table import Table

from nonlocalnet.cli.network import load_network
from nonlocalnet.data.decode import VideoError
from nonlocalnet.evaluation.multiview import predict
from nonlocalnet.runtime.device import pick_device
from nonlocalnet.runtime.log import console


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
    """How many classes to give."""
    num_clips: int = 10
    """Clips of each video; 1 is the middle one."""
    num_crops: Literal[1, 3, 6] = 1
    """Crops of each clip: 1 in the centre, 3 along the longer side, 6 with their mirror images."""
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
    model = load_network(options.weights, options.clip, options.set, takes="videos")
    model.to(pick_device(options.device)).to(memory_format=torch.channels_last_3d)
    failed = 0
    for video in options.videos:
        try:
            best = predict(
                model,
                video,
                top=options.top,
                num_clips=options.num_clips,
                num_crops=options.num_crops,
                side=options.side,
                crop=options.crop,
            )
        except VideoError as error:
            print(f"nonlocalnet: {error}", file=sys.stderr)
            failed += 1
            continue
        if options.json:
            print(json.dumps({"video": str(video), "classes": dict(best)}))
        else:
            table = Table("class", "probability", title=video.name, title_justify="left")
            for name, probability in best:
                table.add_row(name, f"{probability:.3f}")
            console.print(table)
    return 2 if failed else 0
