"""Classify videos: print the most probable classes, write a row per video, or with --every the
probabilities over the time of one long video."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from nonlocalnet.addresses import address_of
from nonlocalnet.cli.network import VideoNetworkOptions, check_weights, load_network
from nonlocalnet.errors import FileError, check_choice, option
from nonlocalnet.options import setting

if TYPE_CHECKING:
    import torch

    from nonlocalnet.data.packs.video import PackedVideo
    from nonlocalnet.networks.registry import Network

SHOWN = 2  # classes of each of many videos
LISTED = 10  # unreadable videos
DAY = 24 * 3600.0  # seconds that one process may be behind another


def parse_part(text: str) -> tuple[int, int]:
    """Read "I/N": the number of a part, from 1, and that of all parts."""
    match = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", text, re.ASCII)
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError(f"--part must be 1/N to N/N, such as 3/16; got {text!r}")
    return int(match[1]), int(match[2])


@dataclass(frozen=True, kw_only=True)
class Options(VideoNetworkOptions):
    """Options of `nonlocalnet predict`."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Video files; folders, in which videos are found at any depth; packed data (a folder or an
    address, docs/data.md); lists, which are .txt or .csv files of one path per line, with or
    without labels; or patterns such as
    "clips/**/*.mp4"."""
    top: int = setting(5, least=1)
    """Number of classes to print or write; the table for several videos has two of each."""
    num_clips: int | None = setting(None, least=1)
    """Clips per video; 1 takes the middle one; default: that of the weights (10; of segments 1)."""
    num_crops: Literal[1, 3, 6, 10] = 1
    """Crops per clip: 1 in the center, 3 along the longer side, 6 with their mirror images, 10 in
    the corners and the center with theirs."""
    side: int | None = setting(None, least=1)
    """Short side of the frames, in pixels; default: that of the weights."""
    crop: int | Literal["whole"] | None = setting(None, least=1)
    """Side of the crops, in pixels (default: the short side); "whole" takes the whole frame."""
    workers: int = setting(2, least=0)
    """Number of decoding processes; with --every, of decoding threads."""
    out: tuple[Path, ...] = ()
    """A .csv, .jsonl or .parquet file with a row per video, written as they are computed. Started
    again, the command continues it. With --every, files for the segments: .csv, .json (also the
    curves of all classes), .png or .html (to look at)."""
    part: str | None = setting(None, parse=parse_part)
    """I/N: only the I-th of N parts of the videos, such as 3/16, for the tasks of an array job. By
    its path, each video is in exactly one part; each part needs a file of its own."""
    every: float | None = setting(None, above=0, below=math.inf)
    """Seconds between two moments of one long video: compute the probabilities at each, and the
    segments in which a class is probable."""
    window: float | None = setting(None, above=0, below=math.inf)
    """Seconds of the video that the network sees at each moment, with --every; default: the length
    of its own clip."""
    threshold: float = setting(0.5, above=0, most=1)
    """Smallest smoothed probability in a segment, with --every."""
    json: bool = False
    """Print one JSON object per video instead of a table."""


def command(options: Options) -> int:
    if not options.videos:
        raise ValueError("name at least one video: nonlocalnet predict VIDEO --weights W")
    check_weights(options.weights)
    _check_output(options)

    from nonlocalnet.data.paths import expand_paths, take_part

    videos, notes = expand_paths(options.videos)
    if not any(video.exists() for video in videos):
        others = ", and none of the other videos exists" if len(videos) > 1 else ""
        raise FileError(videos[0], f"no such file{others}")
    if options.part is not None:
        total, videos = len(videos), take_part(videos, *parse_part(options.part))
        notes.append(f"part {options.part} has {len(videos)} of {total} videos")

    from nonlocalnet.runtime.distributed import process_group
    from nonlocalnet.runtime.log import status

    with process_group(options.device, timeout=DAY) as device:
        for note in notes:
            status.print(note, soft_wrap=True)
        if not videos:
            return 0
        if options.every is not None:
            return _follow(options, options.every, videos, device)
        if options.out:
            return _write(options, videos, options.out[0], device)
        return _print(options, videos, device)


def _check_output(options: Options) -> None:
    """Check that options fit together, and that the files can be written.

    Raises:
        ValueError: they do not.
        ModuleNotFoundError: a file needs a package that is not installed.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if options.every is None:
        from nonlocalnet.evaluation.prediction_file import check_suffix

        if options.window is not None or options.threshold != Options.threshold:
            raise ValueError("--window and --threshold are for one long video: give --every, too")
        if len(options.out) > 1:
            raise ValueError(f"--out is one file; got {' '.join(map(str, options.out))}")
        if several and not options.out:
            raise ValueError("several processes write their rows to one file: name it with --out")
        if options.out and options.json:
            raise ValueError("--json prints and --out writes the predictions: give one of them")
        for path in options.out:
            check_suffix(path)
        return
    from nonlocalnet.evaluation.timeline_files import SUFFIXES

    for path in options.out:
        check_choice("ending of the file", path.suffix.lower(), SUFFIXES)
    for name in ("num_clips", "top", "part"):
        if getattr(options, name) != getattr(Options, name):
            raise ValueError(f"{option(name)} has no use with --every")
    if several:
        raise ValueError("--every decodes one video in one process: start it without torchrun")


def _views(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("num_clips", "num_crops", "side", "crop")}


def _write(
    options: Options, videos: Sequence[Path | PackedVideo], out: Path, device: torch.device
) -> int:
    """Write a row per video, and say which could not be read."""
    from nonlocalnet.checkpoints.zoo import find_weights, sha256_of
    from nonlocalnet.evaluation.prediction import write_predictions
    from nonlocalnet.runtime.distributed import broadcast, rank
    from nonlocalnet.runtime.log import status

    videos = broadcast(videos)  # a file may have come while the processes listed a folder
    # one process downloads a release, the others wait for it
    weights = broadcast(find_weights(options.weights) if rank() == 0 else None)
    model = load_network(weights, options.clip, options.set, device, takes="videos")
    about = {"weights": str(options.weights), "sha256": sha256_of(weights), "set": [*options.set]}
    about["part"] = options.part
    rows = write_predictions(
        *(model, videos, out),
        about=about,
        top=options.top,
        workers=options.workers,
        **_views(options),
    )
    errors = {video: rows[str(video)] for video in videos if rows[str(video)]}
    for video, error in list(errors.items())[:LISTED]:
        status.print(f"nonlocalnet: {FileError(video, error)}", soft_wrap=True)
    if len(errors) > LISTED:
        status.print(f"and {len(errors) - LISTED} more: {out} has all", soft_wrap=True)
    status.print(f"wrote {out}", soft_wrap=True)
    return _say_failed(len(errors), len(videos))


def _follow(
    options: Options, every: float, videos: Sequence[Path | PackedVideo], device: torch.device
) -> int:
    """Compute the probabilities over the time of one video; print and write its segments."""
    if len(videos) > 1:
        raise ValueError(f"--every takes one video; got {len(videos)}, {videos[1]} for one")

    import json

    from nonlocalnet.evaluation.timeline import compute_timeline
    from nonlocalnet.evaluation.timeline_files import PICTURES, describe, print_segments, save
    from nonlocalnet.runtime.log import Bar, status

    model = load_network(options.weights, options.clip, options.set, device, takes="videos")
    drawn = any(path.suffix.lower() in (".png", ".html") for path in options.out)
    with Bar("predict", 1) as bar:
        timeline = compute_timeline(
            model,
            videos[0],
            every=every,
            window=options.window,
            threshold=options.threshold,
            num_crops=options.num_crops,
            side=options.side,
            crop=options.crop,
            pictures=PICTURES if drawn else 0,
            threads=max(options.workers, 1),
            on_moment=bar.reach,
        )
    if timeline.note:
        status.print(f"note: {timeline.note}", soft_wrap=True)
    for path in options.out:
        save(timeline, path, look=_look_command(options, videos[0], model))
        status.print(f"wrote {path}", soft_wrap=True)
    if options.json:
        print(json.dumps(describe(timeline)))
    else:
        print_segments(timeline)
    if timeline.error:
        error = FileError(videos[0], timeline.error)
        status.print(f"nonlocalnet: after {timeline.duration:.1f} s: {error}", soft_wrap=True)
    return 2 if timeline.error else 0


def _look_command(options: Options, video: Path | PackedVideo, model: Network) -> str:
    """Write the command that shows what a network attends to; empty for one without blocks."""
    from nonlocalnet.blocks import NonLocalBlock

    if not any(isinstance(module, NonLocalBlock) for module in model.modules()):
        return ""
    words = ["nonlocalnet", "look", str(video), "--weights", str(options.weights)]
    words += ["--clip", options.clip] if options.clip else []
    words += ["--set", *options.set] if options.set else []
    return f"{shlex.join(words)} --moment MOMENTs"


def _print(options: Options, videos: Sequence[Path | PackedVideo], device: torch.device) -> int:
    """Print a table, or JSON as it is computed."""
    import json
    from contextlib import closing

    from nonlocalnet.data.video.reader import VideoError
    from nonlocalnet.evaluation.prediction import predict
    from nonlocalnet.runtime.log import Bar, status

    model = load_network(options.weights, options.clip, options.set, device, takes="videos")
    workers = options.workers if len(videos) > 1 else 0
    views = {"top": options.top, "workers": workers, **_views(options)}
    found: dict[Path | PackedVideo, list[tuple[str, float]]] = {}
    try:
        with (
            Bar("predict", len(videos)) as bar,
            closing(predict(model, videos, **views)) as results,
        ):
            for video, result in results:
                if isinstance(result, VideoError):
                    status.print(f"nonlocalnet: {result}", soft_wrap=True)
                else:
                    found[video] = result
                    if options.json:
                        row = {"video": str(video), "classes": dict(result)}
                        print(json.dumps(row), flush=True)
                bar.advance(text=video.name)
    finally:  # also after an error or Ctrl-C
        if found and not options.json:
            _print_table(found, one=len(videos) == 1)
    return _say_failed(len(videos) - len(found), len(videos))


def _say_failed(failed: int, videos: int) -> int:
    """Say how many videos could not be read, and return the exit code."""
    from nonlocalnet.runtime.log import status

    if failed and videos > 1:
        status.print(f"{failed} of {videos} videos could not be read", soft_wrap=True)
    return 2 if failed else 0


def _print_table(found: dict[Path | PackedVideo, list[tuple[str, float]]], *, one: bool) -> None:
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
    names = [str(video) for video in found]
    if not any(map(address_of, names)):
        home = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])
        names = [os.path.relpath(name, home) for name in names]
    shown = min(SHOWN, max(map(len, found.values())))
    table = Table("video", *("class", "p", "then", "p")[: 2 * shown])
    for video, best in zip(names, found.values(), strict=True):
        pairs = ((name, f"{probability:.3f}") for name, probability in best[:shown])
        table.add_row(video, *(cell for pair in pairs for cell in pair))
    print_table(table)
    if max(map(len, found.values())) > shown:
        console.print("--json prints more classes of each")
