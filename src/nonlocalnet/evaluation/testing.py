"""Test a video network: average over clips and crops, scores, mistakes; `nonlocalnet test`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.table import Table

from nonlocalnet.addresses import pack_at
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import VideoRecord, VideoSplits, read_dataset
from nonlocalnet.data.find_videos import plain, same_names
from nonlocalnet.data.suffixes import is_video
from nonlocalnet.data.transforms import TestTransform
from nonlocalnet.errors import option, shown
from nonlocalnet.evaluation.metrics import compute_metrics, confusion_matrix
from nonlocalnet.evaluation.multiview import Predictions, evaluate
from nonlocalnet.evaluation.results import (
    find_intervals,
    find_mistakes,
    most_confused,
    write_results,
)
from nonlocalnet.evaluation.seen import say_if_seen
from nonlocalnet.evaluation.views import identify_videos, make_test_set
from nonlocalnet.networks.registry import Network
from nonlocalnet.runtime.device import pick_precision
from nonlocalnet.runtime.distributed import rank, world_size
from nonlocalnet.runtime.log import Bar, console, print_table, status

SHOWN = 10  # videos that were taken for another class
PREDICT = "nonlocalnet predict names the classes of videos without labels"


def test_videos(model: Network, options: Any, device: torch.device) -> None:
    """Test a video network on several clips and crops per video; print and write the results.

    Args:
        model: the network, with its `info`.
        options: of `nonlocalnet test`.
        device: of the network.

    Raises:
        ValueError: the data cannot be read, has no labels, or has classes that the network lacks.
    """
    info = model.info
    found = _read(options, info)
    if found.missing:
        text = f"{found.missing} listed videos are missing and left out, {found.absent[0]} for one"
        status.print(text, soft_wrap=True)
    for note in found.notes:
        status.print(note, soft_wrap=True)
    records = found.train if found.val is None else found.val
    _check_labels(records, options, info)
    views = {name: getattr(options, name) for name in ("num_clips", "num_crops", "side", "crop")}
    dataset = make_test_set(records, info, **views)
    share = -(-len(dataset) // world_size())
    with Bar("test" if world_size() == 1 else f"test, 1 of {world_size()} processes", share) as bar:
        predictions = evaluate(
            model,
            dataset,
            multi_label=info.multi_label,
            average=info.views.average,
            workers=options.workers,
            dtype=pick_precision(options.precision, device),
            on_video=bar.advance,
        )
    if rank() > 0:
        return
    scores = compute_metrics(
        predictions.probabilities, predictions.target, multi_label=info.multi_label
    )
    if not info.multi_label:
        scores["clip_top1"] = 100 * predictions.views_right.mean().item()
    names = [info.class_name(k) for k in range(dataset.num_classes)]
    _print(scores, predictions, dataset, None if info.multi_label else names)
    _print_mistakes(predictions, records, names, options.out)
    seen = say_if_seen(info, identify_videos(records), "videos")
    if options.out is not None:
        transform = cast("TestTransform", dataset.transform)
        facts = {
            **scores,
            "videos": len(predictions.indices),
            "unreadable": len(predictions.unreadable),
            "num_clips": dataset.num_clips,
            "num_crops": transform.num_crops,
            "side": transform.short_side,
            "crop": transform.crop,
            "precision": options.precision,
            "weights": str(options.weights),
            "data": str(options.data),
            "errors": predictions.unreadable,
            "intervals": find_intervals(scores, len(predictions.indices)),
            "intervals_by": "Wilson's score interval, 95%",
            "seen_before": seen,
        }
        write_results(options.out, predictions, records, names, facts, multi_label=info.multi_label)


def _read(options: Any, info: WeightsInfo) -> VideoSplits:
    """Read the videos; labels are indices of the network's classes."""
    where: dict[str, Any] = {"root": options.root, "split": options.split}
    data, known = options.data, info.classes
    alone = pack_at(data) is None and data.is_file()  # a list or a table
    try:
        found = read_dataset(data, classes=known if known and alone else None, **where)
    except ValueError as error:
        if _lists_videos_alone(data):
            raise ValueError(f"{error} ({PREDICT})") from None
        raise
    if alone or not known or same_names(found.classes, known):
        return found
    if not set(map(plain, found.classes)) <= set(map(plain, known)):
        raise ValueError(
            f"{data} has the classes {shown(found.classes[:5])}, {options.weights} is for "
            f"{shown(known[:5])}"
        )
    count = f"{len(found.classes)} of the {len(known)} classes"
    status.print(f"{data} has {count} that {options.weights} is for", soft_wrap=True)
    return read_dataset(data, classes=known, **where)


def _lists_videos_alone(data: Path) -> bool:
    """Return whether this is a video, a folder of videos or a list of names, without labels."""
    if pack_at(data) is not None:
        return False
    if data.is_dir():
        return any(is_video(file.name) for file in data.iterdir())
    if is_video(data.name):
        return True
    text = data.read_text(encoding="utf-8-sig", errors="surrogateescape")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(map(is_video, lines))


def _check_labels(records: Sequence[VideoRecord], options: Any, info: WeightsInfo) -> None:
    """Check that labels exist, and only one per video if the network gives one."""
    without = [record for record in records if not record.labels]
    if without and (not info.multi_label or len(without) == len(records)):
        raise ValueError(
            f"{options.data}: {len(without)} of {len(records)} videos have no label, "
            f"{without[0].name} for one; {PREDICT}"
        )
    several = [record for record in records if len(record.labels) > 1]
    if several and not info.multi_label:
        raise ValueError(
            f"{options.data}: {several[0].name} has {len(several[0].labels)} labels, and "
            f"{options.weights} gives one per video: list one for each, or test weights that were "
            "trained on several labels per video"
        )


def _print(
    scores: dict[str, float],
    predictions: Predictions,
    dataset: VideoDataset,
    names: list[str] | None,
) -> None:
    transform = cast("TestTransform", dataset.transform)
    table = Table("videos", "views", "unreadable", *scores)
    table.add_row(
        str(len(predictions.indices)),
        f"{dataset.num_clips} x {transform.num_crops}",
        str(len(predictions.unreadable)),
        *(f"{value:.1f}" for value in scores.values()),
    )
    print_table(table)
    intervals = find_intervals(scores, len(predictions.indices))
    if intervals:
        told = (f"{name} {low:.1f} to {high:.1f}" for name, (low, high) in intervals.items())
        text = f"95% interval (Wilson's): {', '.join(told)}; other scores have none"
        console.print(text, soft_wrap=True)
    else:
        console.print(f"no interval is computed for {', '.join(scores)}")
    if names is not None:
        counts = confusion_matrix(predictions.probabilities, predictions.target)
        for i, j, videos in most_confused(counts):
            console.print(
                f"{names[i]} taken for {names[j]}: {videos} of {int(counts[i].sum())}",
                soft_wrap=True,
            )
    for error in predictions.unreadable[:5]:
        console.print(f"skipped {error}", soft_wrap=True)


def _print_mistakes(
    predictions: Predictions, records: Sequence[VideoRecord], names: list[str], out: Path | None
) -> None:
    """Print the videos whose most probable class is wrong."""
    mistakes = find_mistakes(predictions, records)
    if not mistakes:
        return
    table = Table(
        "video",
        "label",
        "taken for",
        "p",
        title="wrong, most certain first",
        title_justify="left",
    )
    for mistake in mistakes[:SHOWN]:
        label = "; ".join(names[k] for k in mistake.labels)
        table.add_row(mistake.video, label, names[mistake.predicted], f"{mistake.probability:.3f}")
    print_table(table)
    if len(mistakes) > SHOWN:
        folder = out is not None and not out.suffix
        where = f"{out}/wrong.csv has all" if folder else f"{option('out', 'FOLDER')} writes all"
        console.print(f"and {len(mistakes) - SHOWN} more: {where}", soft_wrap=True)
