"""Test a network: clips x crops of every video, probabilities averaged, one table."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table

from nonlocalnet.cli.network import load_network
from nonlocalnet.data.readers import read_videos
from nonlocalnet.data.sampling import ClipSpec
from nonlocalnet.data.transforms import TestTransform
from nonlocalnet.data.video import VideoDataset
from nonlocalnet.evaluation.multiview import Predictions, evaluate
from nonlocalnet.runtime.device import pick_device
from nonlocalnet.runtime.log import Bar, console
from nonlocalnet.training.tasks import make_task


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet test`."""

    data: Path
    """Videos: a folder with one folder per class, a list file, or a Charades-style .csv."""
    weights: Path
    """Weights of any known format, such as the model.safetensors of `nonlocalnet train`, or the
    name of a release (nonlocalnet zoo)."""
    clip: str | None = None
    """FRAMESxRATE, where the weights do not say it."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: arguments of the network that the weights do not say."""
    root: Path | None = None
    """Where relative paths of a list or csv start; by default its own folder."""
    num_clips: int = 10
    """Clips of each video; 1 is the middle one."""
    num_crops: Literal[1, 3] = 3
    """Crops of each clip: 1 in the centre, or 3 along the longer side."""
    workers: int = 2
    """Processes that decode."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU if there is one."""
    out: Path | None = None
    """A .csv for the predictions of each video, or a .json for the scores."""


def command(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    if options.out is not None and options.out.suffix not in (".csv", ".json"):
        raise ValueError(f"out must end in .csv (predictions) or .json (scores); got {options.out}")
    model = load_network(options.weights, options.clip, options.set)
    model.to(pick_device(options.device))
    info = model.info
    names = info.classes if options.data.is_file() and info.classes else None
    records, classes = read_videos(options.data, root=options.root, classes=names)
    if options.data.is_dir() and info.classes and classes != info.classes:
        raise ValueError(
            f"{options.data} has the classes {classes[:5]}, "
            f"{options.weights} is for {info.classes[:5]}"
        )
    dataset = VideoDataset(
        records,
        info.config["num_classes"],
        ClipSpec.parse(info.config["clip"]),
        TestTransform(info.short_side, info.short_side, options.num_crops, info.mean, info.std),
        train=False,
        num_clips=options.num_clips,
        multi_label=info.multi_label,
    )
    with Bar("test", len(dataset)) as bar:
        predictions = evaluate(
            model,
            dataset,
            multi_label=info.multi_label,
            workers=options.workers,
            on_video=bar.advance,
        )
    scores = make_task(info.multi_label).score(predictions.probabilities, predictions.target)
    table = Table("videos", "views", "unreadable", *scores)
    table.add_row(
        str(len(predictions.indices)),
        f"{options.num_clips} x {options.num_crops}",
        str(len(predictions.unreadable)),
        *(f"{value:.1f}" for value in scores.values()),
    )
    console.print(table)
    for error in predictions.unreadable[:5]:
        console.print(f"skipped {error}", soft_wrap=True)
    if options.out is not None:
        _write(options.out, scores, predictions, dataset, info.class_name)
    return 0


def _write(path: Path, scores, predictions: Predictions, dataset: VideoDataset, class_name) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        facts = {"videos": len(predictions.indices), "unreadable": len(predictions.unreadable)}
        path.write_text(json.dumps(scores | facts, indent=2) + "\n")
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            classes = [class_name(k) for k in range(predictions.probabilities.shape[1])]
            writer.writerow(["video", "labels", *classes])
            for index, p in zip(predictions.indices, predictions.probabilities, strict=True):
                record = dataset.records[int(index)]
                labels = " ".join(map(str, record.labels))
                writer.writerow([record.name, labels, *(f"{float(v):.6f}" for v in p)])
