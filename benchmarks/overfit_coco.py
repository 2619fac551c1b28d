"""Detectors learn real COCO images by heart: boxes, masks and keypoints come back.

    python benchmarks/overfit_coco.py --coco PATH --out benchmarks/results/overfit_coco_cpu.json
    python benchmarks/overfit_coco.py --coco PATH --out benchmarks/results/overfit_coco_cpu.json
        --models keypoint_rcnn_tiny_fpn keypoint_rcnn_tiny_fpn_nl5
        --iterations 1600 --lr 0.02 --batch-size 2

The images of COCO's samples on which nothing is a crowd or smaller than 32 x 32 pixels (of persons:
every person has a keypoint, and three quarters of them in the box) are trained on from a random
start, by `nonlocalnet.training.trainer.train` with one process, and tested on. COCO's own scores.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from measure import machine
from nonlocalnet.runtime.log import console
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.trainer import train

SMALL = 32**2  # pixels: COCO's own limit of small objects
KEPT = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class Options:
    """What is measured."""

    coco: Path
    """Folder with instances_train.json, person_keypoints_{train,val}.json and images/."""
    out: Path
    """The results, JSON; rows of other models there are kept."""
    models: tuple[str, ...] = ("mask_rcnn_tiny_fpn", "mask_rcnn_tiny_fpn_nl1")
    side: int = 192
    """Short side of the images, pixels."""
    iterations: int = 4000
    lr: float = 0.04
    batch_size: int = 3
    seed: int = 0
    runs: Path = field(default_factory=lambda: Path(tempfile.mkdtemp()))
    """Where the runs are kept."""


def large(objects: list[dict[str, Any]]) -> bool:
    """Tell whether an image has objects, and none is a crowd or small."""
    return bool(objects) and all(not o["iscrowd"] and o["area"] >= SMALL for o in objects)


def posed(objects: list[dict[str, Any]]) -> bool:
    """Tell whether an image has persons, and each shows its keypoints in its box."""
    return bool(objects) and all(not o["iscrowd"] and _share_inside(o) > 0.75 for o in objects)


def _share_inside(person: dict[str, Any]) -> float:
    left, top, width, height = person["bbox"]
    points = zip(*(person["keypoints"][k::3] for k in range(3)), strict=True)
    seen = [(x - left, y - top) for x, y, visible in points if visible]
    inside = [0 <= x <= width and 0 <= y <= height for x, y in seen]
    return sum(inside) / len(inside) if inside else 0.0


def select(files: list[Path], rule: Callable[[list[dict[str, Any]]], bool], out: Path) -> int:
    """Write the images that fit a rule, with their annotations; -> how many."""
    chosen: dict[str, Any] = {"images": [], "annotations": []}
    for file in files:
        content = json.loads(file.read_text())
        chosen["categories"] = content["categories"]
        for image in content["images"]:
            objects = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            if rule(objects):
                chosen["images"].append(image)
                chosen["annotations"] += objects
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(chosen))
    return len(chosen["images"])


def measure(options: Options, model: str) -> dict[str, Any]:
    keypoints = model.startswith("keypoint")
    names = (
        ("person_keypoints_train", "person_keypoints_val") if keypoints else ("instances_train",)
    )
    file = options.runs / f"{names[0]}.json"
    images = select(
        [options.coco / f"{name}.json" for name in names], posed if keypoints else large, file
    )
    began = time.monotonic()
    result = train(
        TrainConfig(
            data=file,
            val=file,
            root=options.coco / "images",
            out=options.runs / model,
            model=model,
            norm="frozen",
            init="none",
            flip=0.0,
            short_side=(options.side, options.side),
            set=(
                f"max_size={options.side * 7 // 4}",
                "box_nms_thresh=0.7",  # objects of a class overlap
                "box_batch_size_per_image=64",
                *(f"rpn_pre_nms_top_n_{part}=500" for part in ("train", "test")),
                *(f"rpn_post_nms_top_n_{part}=100" for part in ("train", "test")),
            ),
            iterations=options.iterations,
            batch_size=options.batch_size,
            lr=options.lr,
            max_grad_norm=5.0,
            schedule="cosine",
            warmup=100,
            workers=0,
            eval_every=options.iterations // 4,
            seed=options.seed,
        )
    )
    row = {
        "model": model,
        "images": images,
        "side": options.side,
        "iterations": options.iterations,
        "lr": options.lr,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    for kind in ("bbox", "keypoints" if keypoints else "segm"):
        row[kind] = {name: round(result.scores[f"{kind}_{name}"], 1) for name in KEPT}
    return row


def main(options: Options) -> None:
    torch.set_num_threads(1)
    for model in options.models:
        row = measure(options, model)
        console.print(row)
        cases = json.loads(options.out.read_text())["cases"] if options.out.exists() else []
        rest = [r for r in cases if (r["model"], r["seed"]) != (model, options.seed)]
        found = {"machine": machine("cpu"), "cases": [*rest, row]}
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
