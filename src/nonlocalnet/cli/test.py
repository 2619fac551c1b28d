"""Test a network: on clips x crops of every video, averaged; a detector as COCO does."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
import tyro
from rich.table import Table

from nonlocalnet.cli.network import load_network
from nonlocalnet.data.coco_layout import find_test
from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.transforms import TestTransform
from nonlocalnet.data.tree import same_names
from nonlocalnet.data.video import VideoDataset
from nonlocalnet.evaluation.metrics import confusion_matrix
from nonlocalnet.evaluation.multiview import Predictions, evaluate
from nonlocalnet.evaluation.protocol import make_test_set
from nonlocalnet.evaluation.results import most_confused, write_results
from nonlocalnet.models.detection import is_detector
from nonlocalnet.models.registry import Network
from nonlocalnet.runtime.checkpoint import write_atomically
from nonlocalnet.runtime.device import pick_precision
from nonlocalnet.runtime.distributed import gather, processes, rank, size
from nonlocalnet.runtime.download import find_weights
from nonlocalnet.runtime.log import Bar, console, print_wide, status
from nonlocalnet.training.labels import make_labels

OF_VIDEOS = ("split", "num_clips", "num_crops", "crop")  # what detectors have no use for


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
    """Crops of each clip: 1 in the centre, 3 along the longer side, 6 with their mirror images; by
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
    """Folder for predictions.csv, per_class.csv, confusion.csv and scores.json, of a detector for
    scores.json and its detections in COCO's format; or one file: a .csv for the predictions, a
    .json for the scores."""


def command(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    if options.out is not None and options.out.suffix not in ("", ".csv", ".json"):
        raise ValueError(
            f"out must be a folder (a name without a dot), a .csv (predictions) or a .json "
            f"(scores); got {options.out}"
        )
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
    names = info.classes if options.data.is_file() and info.classes else None
    found = read_dataset(options.data, root=options.root, classes=names, split=options.split)
    if options.data.is_dir() and info.classes and not same_names(found.classes, info.classes):
        raise ValueError(
            f"{options.data} has the classes {found.classes[:5]}, "
            f"{options.weights} is for {info.classes[:5]}"
        )
    if found.missing:
        text = f"{found.missing} listed videos are missing and left out, {found.absent[0]} for one"
        status.print(text, soft_wrap=True)
    for note in found.notes:
        status.print(note, soft_wrap=True)
    records = found.train if found.val is None else found.val
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
        }
        write_results(options.out, predictions, records, names, facts, multi_label=info.multi_label)
    return 0


def _test_detector(model: Network, options: Options, device: torch.device) -> int:
    # pycocotools and faster-coco-eval are of the extra coco
    from nonlocalnet.data.coco import CocoDataset
    from nonlocalnet.evaluation.coco import CocoEvaluator
    from nonlocalnet.evaluation.detection import evaluate_detector, kinds_of

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
    for kind, of in scores.items():
        table = Table(kind, *of)
        table.add_row(f"{len(dataset)} images", *(f"{value:.1f}" for value in of.values()))
        print_wide(table)
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
    console.print(table)
    if names is not None:
        counts = confusion_matrix(predictions.probabilities, predictions.target)
        for i, j, videos in most_confused(counts):
            console.print(
                f"{names[i]} taken for {names[j]}: {videos} of {int(counts[i].sum())}",
                soft_wrap=True,
            )
    for error in predictions.unreadable[:5]:
        console.print(f"skipped {error}", soft_wrap=True)
