"""Test a detector on COCO's annotations: the part of `nonlocalnet test` for images."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from rich.table import Table

from nonlocalnet.detection.annotations import identify_annotations
from nonlocalnet.detection.coco_eval import CocoEvaluator
from nonlocalnet.detection.dataset import CocoDataset
from nonlocalnet.detection.evaluation import count_keypoints, evaluate_detector, kinds_of
from nonlocalnet.detection.find import find_test
from nonlocalnet.errors import option
from nonlocalnet.evaluation.seen import say_if_seen
from nonlocalnet.networks.registry import Network
from nonlocalnet.runtime.atomic import write_atomically
from nonlocalnet.runtime.device import pick_precision
from nonlocalnet.runtime.distributed import rank, world_size
from nonlocalnet.runtime.log import Bar, console, print_table


def test_images(model: Network, options: Any, device: torch.device) -> None:
    """Test a detector as COCO does; print and write the results.

    Args:
        model: the detector, with its `info`.
        options: of `nonlocalnet test`.
        device: where the detector is.

    Raises:
        ValueError: --out is a .csv, or the annotations have other classes or keypoints.
    """
    if options.out is not None and options.out.suffix == ".csv":
        raise ValueError(f"a detector's results are JSON: got {option('out', options.out)}")
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
    share = -(-len(dataset) // world_size())
    with Bar("test" if world_size() == 1 else f"test, 1 of {world_size()} processes", share) as bar:
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
        return
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
    seen = say_if_seen(model.info, identify_annotations(split.annotations), "images")
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
