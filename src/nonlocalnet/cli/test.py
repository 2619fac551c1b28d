"""Test a network: on clips x crops of every video, averaged; a detector as COCO does."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import tyro
from rich.table import Table

from nonlocalnet.checkpoints.download import find_weights
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.cli.network import load_network
from nonlocalnet.cli.options import check_positive
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import VideoSplits, read_dataset
from nonlocalnet.data.find_videos import plain, same_names
from nonlocalnet.data.formats.lists import VideoRecord, is_video
from nonlocalnet.data.transforms import TestTransform
from nonlocalnet.detection.annotations import identify_annotations
from nonlocalnet.detection.find import find_test
from nonlocalnet.detection.networks import is_detector
from nonlocalnet.evaluation.metrics import confusion_matrix
from nonlocalnet.evaluation.multiview import Predictions, evaluate
from nonlocalnet.evaluation.results import (
    find_intervals,
    find_mistakes,
    most_confused,
    write_results,
)
from nonlocalnet.evaluation.views import identify_videos, make_test_set
from nonlocalnet.networks.registry import Network
from nonlocalnet.runtime.atomic import write_atomically
from nonlocalnet.runtime.device import pick_precision
from nonlocalnet.runtime.distributed import gather, processes, rank, size
from nonlocalnet.runtime.log import Bar, console, print_table, status
from nonlocalnet.training.losses import make_labels

OF_VIDEOS = ("split", "num_clips", "num_crops", "crop")  # what detectors have no use for
SHOWN = 10  # videos that were taken for another class
PREDICT = "nonlocalnet predict names the classes of videos without labels"


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet test`."""

    data: Path
    """Videos: a data set in a known format (docs/data.md), of which the validation split is taken
    if it has one, a folder with one folder per class, a list file or a Charades-style .csv. For a
    detector COCO's folder, or one file of its annotations."""
    weights: Path
    """Weights of any known format, such as the model.safetensors of `nonlocalnet train`, or the
    name of a release (nonlocalnet zoo)."""
    clip: str | None = None
    """FRAMESxRATE, where the weights do not say it."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: arguments of the network that the weights do not say."""
    root: Path | None = None
    """Where relative paths of a list or csv start, by default its own folder; where images are."""
    split: int = 1
    """Which of the official splits, in data sets that have several (UCF101, HMDB51)."""
    num_clips: int = 10
    """Clips of each video; 1 is the middle one."""
    num_crops: Literal[1, 3, 6] | None = None
    """Crops of each clip: 1 in the center, 3 along the longer side, 6 with their mirror images; by
    default 3, the protocol of published accuracies."""
    side: int | None = None
    """Short side of the frames, pixels; by default as the weights say (256; Charades: 320)."""
    crop: int | Literal["whole"] | None = None
    """Side of the crops, pixels, by default the short side; "whole" tests all of the frame, as in
    the paper, at about half the cost of 3 crops."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Arithmetic; auto is bf16 on a GPU that has it, fp32 elsewhere."""
    workers: int = 2
    """Processes that decode."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU if there is one."""
    out: Path | None = None
    """Folder for predictions.csv, wrong.csv, per_class.csv, confusion.csv and scores.json, of a
    detector for scores.json and its detections in COCO's format; or one file: a .csv for the
    predictions, a .json for the scores."""


def command(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    if options.out is not None and options.out.suffix not in ("", ".csv", ".json"):
        raise ValueError(
            f"out must be a folder (a name without a dot), a .csv (predictions) or a .json "
            f"(scores); got {options.out}"
        )
    check_positive(options, "num_clips", "side", "crop")
    with processes(options.device) as device:
        return _test(options, device)


def _test(options: Options, device: torch.device) -> int:
    # one process gets a release, the others wait for it
    weights = gather(find_weights(options.weights) if rank() == 0 else None)[0]
    model = load_network(weights, options.clip, options.set)
    model.to(device)
    if is_detector(model):
        return _test_detector(model, options, device)
    model.to(memory_format=torch.channels_last_3d)
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
    share = -(-len(dataset) // size())
    with Bar("test" if size() == 1 else f"test, 1 of {size()} processes", share) as bar:
        predictions = evaluate(
            model,
            dataset,
            multi_label=info.multi_label,
            workers=options.workers,
            dtype=pick_precision(options.precision, device),
            on_video=bar.advance,
        )
    if rank() > 0:
        return 0
    scores = _scores(predictions, info.multi_label)
    names = [info.class_name(k) for k in range(dataset.num_classes)]
    _print(scores, predictions, dataset, None if info.multi_label else names)
    _print_mistakes(predictions, records, names, options.out)
    seen = _say_if_seen(info, identify_videos(records), "videos")
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
    return 0


def _read(options: Options, info: WeightsInfo) -> VideoSplits:
    """Read the videos, labeled as the network's classes are.

    Raises:
        ValueError: it cannot be read, or has classes that the network has not.
    """
    where: dict[str, Any] = {"root": options.root, "split": options.split}
    data, known = options.data, info.classes
    try:
        found = read_dataset(data, classes=known if known and data.is_file() else None, **where)
    except ValueError as error:
        if _lists_videos_alone(data):
            raise ValueError(f"{error} ({PREDICT})") from None
        raise
    if data.is_file() or not known or same_names(found.classes, known):
        return found
    if not set(map(plain, found.classes)) <= set(map(plain, known)):
        raise ValueError(
            f"{data} has the classes {found.classes[:5]}, {options.weights} is for {known[:5]}"
        )
    count = f"{len(found.classes)} of the {len(known)} classes"
    status.print(f"{data} has {count} that {options.weights} is for", soft_wrap=True)
    return read_dataset(data, classes=known, **where)


def _lists_videos_alone(data: Path) -> bool:
    """Whether there are videos, but no labels: a video, a folder of them, or a list of names."""
    if data.is_dir():
        return any(is_video(file.name) for file in data.iterdir())
    if is_video(data.name):
        return True
    text = data.read_text(encoding="utf-8-sig", errors="surrogateescape")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(map(is_video, lines))


def _check_labels(records: Sequence[VideoRecord], options: Options, info: WeightsInfo) -> None:
    """Raise a ValueError where labels are missing, or are more than the network is for."""
    without = [record for record in records if not record.labels]
    if without and (not info.multi_label or len(without) == len(records)):
        raise ValueError(
            f"{options.data}: {len(without)} of {len(records)} videos have no label to compare "
            f"with, {without[0].name} for one; {PREDICT}"
        )
    several = [record for record in records if len(record.labels) > 1]
    if several and not info.multi_label:
        raise ValueError(
            f"{options.data}: {several[0].name} has {len(several[0].labels)} labels, and "
            f"{options.weights} gives one a video: list one for each, or test weights that were "
            "trained on many labels a video"
        )


def _say_if_seen(info: WeightsInfo, identity: str, what: str) -> str | None:
    """Say, and tell, whether the weights were trained on this data, or chosen by it."""
    if info.facts.get("trained_on") == identity:
        console.print(
            f"these are the {what} that the network was trained on: on others it scores less",
            soft_wrap=True,
        )
        return "training"
    if info.facts.get("chosen_on") == identity:
        console.print(
            f"these weights are those of their run that score best on these very {what}: on others "
            "they score less",
            soft_wrap=True,
        )
        return "validation"
    return None


def _test_detector(model: Network, options: Options, device: torch.device) -> int:
    # pycocotools and faster-coco-eval are of the extra coco
    from nonlocalnet.detection.dataset import CocoDataset
    from nonlocalnet.detection.evaluation import count_keypoints, evaluate_detector, kinds_of
    from nonlocalnet.detection.scores import CocoEvaluator

    for field in dataclasses.fields(options):
        if field.name in OF_VIDEOS and getattr(options, field.name) != field.default:
            word = field.name.replace("_", "-")
            raise ValueError(f"{options.weights} takes images: --{word} has no use")
    if options.out is not None and options.out.suffix == ".csv":
        raise ValueError(f"a detector's results are JSON: got --out {options.out}")
    kinds = kinds_of(model)
    kind = "person_keypoints" if "keypoints" in kinds else "instances"
    split = find_test(options.data, kind, root=options.root)
    dataset = CocoDataset(split.images, split.annotations, masks=False, training=False)
    names = model.info.classes
    if names and dataset.classes != names:
        raise ValueError(
            f"{split.annotations} has {len(dataset.classes) - 1} labels, {dataset.classes[1:6]} "
            f"and so on, {options.weights} is for {len(names) - 1}, {names[1:6]} and so on"
        )
    if options.side is not None:
        model.transform.min_size = (options.side,)
    evaluator = CocoEvaluator(split.annotations, kinds)
    there, given = len(evaluator.keypoints), count_keypoints(model)
    if there != given:
        raise ValueError(
            f"{split.annotations} has {there} keypoints an object, {options.weights} is for {given}"
        )
    share = -(-len(dataset) // size())
    with Bar("test" if size() == 1 else f"test, 1 of {size()} processes", share) as bar:
        errors = evaluate_detector(
            model,
            dataset,
            evaluator,
            workers=options.workers,
            dtype=pick_precision(options.precision, device),
            on_image=bar.advance,
        )
    scores = evaluator.scores()
    found = {f"{kind}.json": evaluator.detections(kind) for kind in kinds}
    if rank() > 0:
        return 0
    table = Table(f"{len(dataset)} images", *scores)
    for name in dict.fromkeys(name for of in scores.values() for name in of):
        table.add_row(name, *(f"{of[name]:.1f}" if name in of else "–" for of in scores.values()))
    print_table(table)
    console.print("of these scores no interval is computed")
    if evaluator.sigmas and not evaluator.known:
        console.print(
            f"similarity of keypoints with a spread of {evaluator.sigmas[0]:g} for all: COCO has "
            "one for the keypoints of persons alone",
            soft_wrap=True,
        )
    seen = _say_if_seen(model.info, identify_annotations(split.annotations), "images")
    for error in errors[:5]:
        console.print(f"counted as without detections: {error}", soft_wrap=True)
    if options.out is not None:
        facts = {
            kind: {name: None if math.isnan(value) else value for name, value in of.items()}
            for kind, of in scores.items()
        } | {
            "images": len(dataset),
            "unreadable": len(errors),
            "side": max(model.transform.min_size),
            "precision": options.precision,
            "weights": str(options.weights),
            "data": str(split.annotations),
            "errors": errors,
            "sigmas": list(evaluator.sigmas),
            "seen_before": seen,
        }
        alone = options.out.suffix == ".json"
        folder = options.out.parent if alone else options.out
        files = {options.out.name: facts} if alone else {"scores.json": facts, **found}
        for name, content in files.items():
            text = json.dumps(content, indent=2 if content is facts else None) + "\n"
            write_atomically(folder / name, lambda place, text=text: place.write_text(text))
    return 0


def _scores(predictions: Predictions, multi_label: bool) -> dict[str, float]:
    scores = make_labels(multi_label).score(predictions.probabilities, predictions.target)
    if not multi_label:
        scores["clip_top1"] = 100 * predictions.views_right.mean().item()
    return scores


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
        text = f"95% interval (Wilson's): {', '.join(told)}; of other scores none is computed"
        console.print(text, soft_wrap=True)
    else:
        console.print(f"of {', '.join(scores)} no interval is computed")
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
    """List the videos whose likeliest class is not theirs."""
    mistakes = find_mistakes(predictions, records)
    if not mistakes:
        return
    table = Table(
        "video",
        "label",
        "taken for",
        "p",
        title="wrong, the most certain first",
        title_justify="left",
    )
    for mistake in mistakes[:SHOWN]:
        label = "; ".join(names[k] for k in mistake.labels)
        table.add_row(mistake.video, label, names[mistake.predicted], f"{mistake.probability:.3f}")
    print_table(table)
    if len(mistakes) > SHOWN:
        folder = out is not None and not out.suffix
        where = f"{out}/wrong.csv has all" if folder else "--out FOLDER writes all to wrong.csv"
        console.print(f"and {len(mistakes) - SHOWN} more: {where}", soft_wrap=True)
