"""Check a data set of videos, or of images annotated as COCO's, or make a smaller copy of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from nonlocalnet.checkpoints.metadata import read_classes
from nonlocalnet.data.check import UNFIT, CheckReport, check_dataset, write_good
from nonlocalnet.data.datasets import VideoSplits, read_dataset
from nonlocalnet.data.find_videos import LISTS, walk
from nonlocalnet.data.resize import resize_dataset
from nonlocalnet.data.summary import class_rows, split_rows, splits_of
from nonlocalnet.data.video.frame_folder import ASSUMED_RATE
from nonlocalnet.detection import check as coco_check
from nonlocalnet.detection.annotations import read_annotations
from nonlocalnet.detection.check import CocoReport, check_annotations
from nonlocalnet.errors import printable
from nonlocalnet.runtime.atomic import write_atomically
from nonlocalnet.runtime.log import Bar, console, print_table

SHOWN = 20  # rows of a table
ONLY_VIDEOS = ("val", "root", "classes", "split", "out", "min_frames")  # options of `Check`


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Check:
    """Decode every video or image to its end; exit code 1 if anything is wrong."""

    source: tyro.conf.Positional[Path]
    """The data set: its folder, a folder of classes, or a list (docs/data.md); or annotations of
    COCO's format, with --images."""
    images: Path | None = None
    """The folder of the images that COCO's annotations name. Of the other options they have --json,
    --time-limit and --workers."""
    val: Path | None = None
    """Another data set or list to validate on, instead of the source's own."""
    root: Path | None = None
    """Where the listed videos are, if not in the source's folder."""
    classes: Path | None = None
    """Class names, one a line in the order of the labels, instead of the source's."""
    split: int = 1
    """Which split of UCF101 and HMDB51."""
    out: Path | None = None
    """A folder for the lists of good videos, a data set again; what was checked is kept there, so
    that a check that was interrupted goes on."""
    json: Path | None = None
    """A file for everything that was found."""
    min_frames: int = 1
    """Shorter videos are reported."""
    time_limit: float = 120.0
    """Seconds for one file."""
    workers: int = field(default_factory=_cores)
    """Processes that decode."""


@dataclass(frozen=True)
class Resize:
    """Copy a data set with its videos' shorter side reduced, as H.264 without sound."""

    source: tyro.conf.Positional[Path]
    """The folder of the videos and their lists; it is only read."""
    out: tyro.conf.Positional[Path]
    """The copy's folder, elsewhere; what it has already is not made again."""
    short_side: int = 256
    """Pixels of the shorter side; smaller videos keep their size."""
    crf: int = 20
    """Quality of H.264: lower is better, 0 to 51."""
    time_limit: float = 600.0
    """Seconds for one file."""
    workers: int = field(default_factory=_cores)
    """Processes that work."""


def command(
    do: Annotated[
        Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[Resize, tyro.conf.subcommand("resize")],
        tyro.conf.arg(name=""),
    ],
) -> int:
    if do.workers < 1 or do.time_limit <= 0:
        raise ValueError("--workers and --time-limit must be positive")
    return _check(do) if isinstance(do, Check) else _resize(do)


def _check(options: Check) -> int:
    if options.images is not None:
        return _check_images(options, options.images)
    if options.source.suffix == ".json":
        raise ValueError(
            f"{options.source}: if these are COCO's annotations, name the folder of their images "
            "with --images; a data set of videos is named by its folder"
        )
    names = None if options.classes is None else read_classes(options.classes)
    data = read_dataset(
        options.source, val=options.val, root=options.root, classes=names, split=options.split
    )
    total = len({record.path for record in data.train + (data.val or [])})
    with Bar("checking", total) as bar:
        report = check_dataset(
            data,
            folder=options.root or options.source,
            workers=options.workers,
            min_frames=options.min_frames,
            time_limit=options.time_limit,
            journal=options.out and options.out / ".checked.jsonl",
            progress=bar.advance,
        )
    _print_contents(data, report)
    _print(report)
    _write(report, options.json)
    if options.out is not None:
        for file in write_good(report, data.classes, options.out):
            console.print(f"good videos: {file}", soft_wrap=True)
    return 1 if report.findings else 0


def _check_images(options: Check, images: Path) -> int:
    for entry in fields(Check):
        if entry.name in ONLY_VIDEOS and getattr(options, entry.name) != entry.default:
            word = entry.name.replace("_", "-")
            raise ValueError(f"--{word} is for videos: COCO's annotations are checked without it")
    if not images.is_dir():
        raise ValueError(f"--images is the folder of the images; there is no folder {images}")
    total = len({image["id"] for image in read_annotations(options.source)["images"]})
    with Bar("checking", total) as bar:
        report = check_annotations(
            images,
            options.source,
            workers=options.workers,
            time_limit=options.time_limit,
            progress=bar.advance,
        )
    _print_findings(("what", "where", "why"), [(f.kind, f.where, f.text) for f in report.findings])
    counts = Table("what", "how many", "fit for use")
    for row in report.as_rows():
        counts.add_row(*row)
    console.print(counts)
    _write(report, options.json)
    return 1 if any(kind in coco_check.UNFIT for kind in report.counts()) else 0


def _print_contents(data: VideoSplits, report: CheckReport) -> None:
    numbers = "least / median / most"
    table = Table("split", "videos", "classes", f"frames\n{numbers}", f"seconds\n{numbers}", "size")
    for row in split_rows(data, report):
        table.add_row(*row)
    console.print(table)
    rows, more = class_rows(data)
    table = Table("label", "class", *(f"videos, {name}" for name, _ in splits_of(data)))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if more:
        console.print(f"and {more} more classes")
    if any(path.is_dir() for path in map(Path, report.files)):
        rate = f"{ASSUMED_RATE:g} frames a second"
        console.print(f"folders of frames do not say their rate: {rate} are assumed")
    for note in report.notes:
        console.print(note, soft_wrap=True)


def _print(report: CheckReport) -> None:
    for fault in (finding.text for finding in report.findings if finding.kind == "class"):
        console.print(f"train and val do not go together: {fault}", soft_wrap=True)
    _print_findings(
        ("what", "split", "video", "why"),
        [
            (f.kind, f.split or "–", printable(f.path), printable(f.text))
            for f in report.findings
            if f.kind != "class"
        ],
    )
    counts = Table("what", "videos", "fit for use")
    for kind, count in report.counts().items():
        counts.add_row(kind, str(count), "no" if kind in (*UNFIT, "missing", "class") else "yes")
    for split, records in report.good.items():
        counts.add_row(f"good, {split}", str(len(records)), "yes")
    console.print(counts)


def _print_findings(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table(*columns)
    for row in rows[:SHOWN]:
        table.add_row(*row)
    print_table(table)
    if len(rows) > SHOWN:
        console.print(f"and {len(rows) - SHOWN} more: --json FILE writes all")


def _resize(options: Resize) -> int:
    found = walk(options.source)
    for note in found.notes(known=LISTS):
        console.print(note, soft_wrap=True)
    total = len(found.videos)
    with Bar("resizing", total) as bar:
        report = resize_dataset(
            options.source,
            options.out,
            short_side=options.short_side,
            crf=options.crf,
            workers=options.workers,
            time_limit=options.time_limit,
            progress=bar.advance,
        )
    if report.bad:
        table = Table("left out", "why", title="could not be copied")
        for path, reason in report.bad[:SHOWN]:
            table.add_row(printable(str(path)), reason)
        print_table(table)
    console.print(
        f"{options.out}: {report.written} written, {report.skipped} there before, "
        f"{len(report.bad)} left out",
        soft_wrap=True,
    )
    return 1 if report.bad else 0


def _write(report: CheckReport | CocoReport, file: Path | None) -> None:
    if file is not None:
        text = report.as_json()
        write_atomically(
            file,
            lambda place: place.write_text(text, encoding="utf-8", errors="backslashreplace"),
        )
