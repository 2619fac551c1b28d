"""A small data set of COCO's format: colored rectangles, with masks and keypoints."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = {1: "person", 3: "car"}


def write_shapes(folder: Path, images: int, seed: int, *, kind: str = "instances") -> Path:
    """Write FOLDER/{train,val}2017/ and FOLDER/annotations/KIND_{train,val}2017.json."""
    rng = np.random.default_rng(seed)
    for split in ("train2017", "val2017"):
        content = {"images": [], "annotations": [], "categories": []}
        ids = NAMES if kind == "instances" else {1: "person"}
        content["categories"] = [{"id": id, "name": name} for id, name in ids.items()]
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number in range(1, images + 1):
            pixels = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
            for _ in range(2):
                w, h = rng.integers(16, 30, 2)
                x, y = rng.integers(0, 64 - w), rng.integers(0, 48 - h)
                category = int(rng.choice(list(ids)))
                pixels[y : y + h, x : x + w] = (230, 200, 40) if category == 1 else (30, 80, 220)
                corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                places = np.stack(
                    [np.linspace(x + 1, x + w - 1, 17), np.linspace(y + 1, y + h - 1, 17)], 1
                )
                points = np.concatenate([places.round(), np.full((17, 1), 2)], 1)
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number,
                        "category_id": category,
                        "bbox": [int(x), int(y), int(w), int(h)],
                        "area": int(w * h),
                        "iscrowd": 0,
                        "segmentation": [[int(c) for c in corners]],
                        "keypoints": [int(value) for value in points.flatten()],
                        "num_keypoints": 17,
                    }
                )
            name = f"{number:03d}.png"
            Image.fromarray(pixels).save(folder / split / name)
            content["images"].append({"id": number, "file_name": name, "width": 64, "height": 48})
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/{kind}_{split}.json").write_text(json.dumps(content))
    return folder
