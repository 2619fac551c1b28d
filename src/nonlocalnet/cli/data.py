"""Check a data set of videos or of images with COCO annotations; copy it with smaller videos, or
pack it into tar files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nonlocalnet.addresses import pack_at
from nonlocalnet.options import check_paths, check_takes, setting

if TYPE_CHECKING:
    from nonlocalnet.data.check import CheckReport
    from nonlocalnet.data.datasets import VideoSplits
    from nonlocalnet.detection.check import CocoReport

SHOWN = 20  # rows of a table
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(text: str) -> int:
    """Read a number of bytes such as "1GB", "500 MB" or "1.5GiB"."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text, re.ASCII)
    size = int(float(match[1]) * UNITS.get(match[2].upper(), 0)) if match else 0
    if size < 1:
        raise ValueError(
            f"--shard-size is a number and kB, MB, GB or GiB, such as 1GB; got {text!r}"
        )
    return size


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Check:
    """Decode every video or image to its end; exit code 1 if anything is wrong."""

    source: tyro.conf.Positional[Path] = setting(names="a data set, a folder or a list")
    """The data set: its folder, a folder of classes, or a list (docs/data.md); or an annotation
    file in COCO's format, with --images."""
    images: Path | None = setting(None, names="the folder of the images")
    """Folder of the images that COCO annotations refer to. Of the other options, --json,
    --time-limit and --workers apply to them."""
    val: Path | None = setting(None, takes="videos", names="a data set, a folder or a list")
    """Another data set or list to use as validation split."""
    root: Path | None = setting(None, takes="videos", names="the folder of the listed videos")
    """Folder of the listed videos; default: the folder of the source."""
    classes: Path | None = setting(None, takes="videos", names="a file of class names")
    """File of class names, one per line in label order; default: those of the source."""
    split: int = setting(1, takes="videos")
    """Official split to use, for UCF101 and HMDB51."""
    out: Path | None = setting(None, takes="videos")
    """Folder to write lists of the good videos to; it can be used as a data set. Results are kept
    there, so that an interrupted check continues."""
    json: Path | None = None
    """File to write all findings to."""
    min_frames: int = setting(1, takes="videos")
    """Report videos with fewer frames."""
    time_limit: float = setting(120.0, above=0)
    """Time limit for one file, in seconds."""
    workers: int = setting(default_factory=_cores, least=1)
    """Number of decoding processes."""


@dataclass(frozen=True)
class Resize:
    """Copy a data set as H.264 without sound, with the shorter side of its videos reduced."""

    source: tyro.conf.Positional[Path] = setting(names="the folder of a data set")
    """Folder of the videos and their lists; it is not changed."""
    out: tyro.conf.Positional[Path] = setting()
    """Folder of the copy; videos that it contains already are not copied again."""
    short_side: int = setting(256, least=1)
    """Shorter side, in pixels; smaller videos keep their size."""
    crf: int = setting(20, least=0, most=51)
    """Quality of H.264, from 0 to 51; lower is better."""
    time_limit: float = setting(600.0, above=0)
    """Time limit for one file, in seconds."""
    workers: int = setting(default_factory=_cores, least=1)
    """Number of encoding processes."""


@dataclass(frozen=True)
class Pack:
    """Copy the videos of a data set into a few tar files with an index, which --data takes."""

    source: tyro.conf.Positional[Path] = setting(names="a data set, a folder or a list")
    """The data set: its folder, a folder of classes, or a list (docs/data.md)."""
    out: tyro.conf.Positional[Path] = setting()
    """Folder of the packed data. Started again, the command continues."""
    shard_size: str = setting("1GB", parse=parse_size)
    """Size of a tar file; only one with a single video may be larger."""
    val: Path | None = setting(None, names="a data set, a folder or a list")
    """Another data set or list to use as validation split."""
    root: Path | None = setting(None, names="the folder of the listed videos")
    """Folder of the listed videos; default: the folder of the source."""
    classes: Path | None = setting(None, names="a file of class names")
    """File of class names, one per line in label order; default: those of the source."""
    split: int = 1
    """Official split to use, for UCF101 and HMDB51."""


Options = (
    Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Resize, tyro.conf.subcommand("resize")]
    | Annotated[Pack, tyro.conf.subcommand("pack")]
)


def command(options: Check | Resize | Pack) -> int:
    if isinstance(options, Check) and options.images is not None:
        check_takes(options, "images", "these are images with COCO annotations")
        if not options.images.is_dir():
            raise ValueError(f"--images is the folder of the images; no folder {options.images}")
    check_paths(options)
    if isinstance(options, Resize):
        return _resize(options)
    if isinstance(options, Pack):
        return _pack(options)
    return _check(options) if options.images is None else _check_images(options, options.images)


def _check(options: Check) -> int:
    if options.source.suffix == ".json":
        raise ValueError(
            f"{options.source}: if these are COCO annotations, pass the folder of their images "
            "as --images; for a data set of videos, pass its folder"
        )

    from nonlocalnet.data.check import check_dataset, write_good
    from nonlocalnet.data.datasets import read_dataset
    from nonlocalnet.networks.options import read_classes
    from nonlocalnet.runtime.log import Bar, console

    names = None if options.classes is None else read_classes(options.classes)
    data = read_dataset(
        options.source, val=options.val, root=options.root, classes=names, split=options.split
    )
    total = len({record.path for record in data.train + (data.val or [])})
    with Bar("checking", total) as bar:
        report = check_dataset(
            data,
            folder=None if pack_at(options.source) else options.root or options.source,
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
    from nonlocalnet.detection.annotations import read_annotations
    from nonlocalnet.detection.check import UNFIT, check_annotations
    from nonlocalnet.runtime.log import Bar

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
    _print_table(("what", "how many", "fit for use"), report.as_rows())
    _write(report, options.json)
    return 1 if any(kind in UNFIT for kind in report.counts()) else 0


def _print_contents(data: VideoSplits, report: CheckReport) -> None:
    from nonlocalnet.data.summary import class_rows, split_rows
    from nonlocalnet.data.video.frame_folder import ASSUMED_RATE
    from nonlocalnet.runtime.log import console

    numbers = "least / median / most"
    columns = ("split", "videos", "classes", f"frames\n{numbers}", f"seconds\n{numbers}", "size")
    _print_table(columns, split_rows(data, report))
    rows, more = class_rows(data)
    _print_table(("label", "class", *(f"videos, {name}" for name in data.splits)), rows)
    if more:
        console.print(f"and {more} more classes")
    if any(r.path.is_dir() for records in data.splits.values() for r in records):
        rate = f"{ASSUMED_RATE:g} frames per second"
        console.print(f"folders of frames do not state their rate: {rate} are assumed")
    for note in report.notes:
        console.print(note, soft_wrap=True)


def _print(report: CheckReport) -> None:
    from nonlocalnet.data.check import UNFIT
    from nonlocalnet.errors import printable
    from nonlocalnet.runtime.log import console

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
    rows = [
        (kind, str(count), "no" if kind in (*UNFIT, "missing", "class") else "yes")
        for kind, count in report.counts().items()
    ]
    rows += [(f"good, {split}", str(len(videos)), "yes") for split, videos in report.good.items()]
    _print_table(("what", "videos", "fit for use"), rows)


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], fold: bool = True) -> None:
    """Print a table; a cell that does not fit is folded, or else each row becomes a paragraph."""
    from rich.table import Table

    from nonlocalnet.runtime.log import console, print_table

    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    (console.print if fold else print_table)(table)


def _print_findings(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from nonlocalnet.runtime.log import console

    if rows:
        _print_table(columns, rows[:SHOWN], fold=False)
    if len(rows) > SHOWN:
        console.print(f"and {len(rows) - SHOWN} more: --json FILE writes all")


def _resize(options: Resize) -> int:
    from nonlocalnet.data.find_videos import LISTS, find_videos
    from nonlocalnet.data.resize import resize_dataset
    from nonlocalnet.errors import printable
    from nonlocalnet.runtime.log import Bar, console

    if pack_at(options.source) is not None:
        raise ValueError(f"{options.source} is packed: resize the files that it was packed from")
    found = find_videos(options.source)
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
        console.print("could not be copied")
        rows = [(printable(str(path)), reason) for path, reason in report.bad[:SHOWN]]
        _print_table(("left out", "why"), rows, fold=False)
    console.print(
        f"{options.out}: {report.written} written, {report.skipped} there before, "
        f"{len(report.bad)} left out",
        soft_wrap=True,
    )
    return 1 if report.bad else 0


def _pack(options: Pack) -> int:
    from nonlocalnet.data.datasets import read_entries
    from nonlocalnet.data.packs.write import pack_dataset
    from nonlocalnet.networks.options import read_classes
    from nonlocalnet.runtime.log import Bar, console

    found = read_entries(
        options.source,
        val=options.val,
        root=options.root,
        classes=None if options.classes is None else read_classes(options.classes),
        split=options.split,
    )
    for note in found.notes:
        console.print(note, soft_wrap=True)
    total = len([*found.train, *found.val, *found.test])
    with Bar("packing", total) as bar:
        report = pack_dataset(
            options.source,
            found,
            options.out,
            shard_size=parse_size(options.shard_size),
            progress=bar.advance,
        )
    if report.missing:
        console.print(f"{report.missing} listed videos do not exist", soft_wrap=True)
    console.print(
        f"{options.out}: {report.videos} videos in {report.shards} tar files, {report.before} of "
        "them there before",
        soft_wrap=True,
    )
    return 0


def _write(report: CheckReport | CocoReport, file: Path | None) -> None:
    from nonlocalnet.runtime.atomic import write_atomically

    if file is not None:
        text = report.as_json()
        write_atomically(
            file,
            lambda place: place.write_text(text, encoding="utf-8", errors="backslashreplace"),
        )
