"""Annotations of COCO's format for one picture of 64x48."""

import json
from pathlib import Path

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
POINTS = [15, 15, 2] * 16 + [0, 0, 0]


def annotation(id, image=1, category=1, **changes):
    return {
        "id": id,
        "image_id": image,
        "category_id": category,
        "bbox": [10, 10, 20, 20],
        "area": 400,
        "iscrowd": 0,
        "segmentation": [SQUARE],
        "keypoints": POINTS,
        "num_keypoints": 16,
    } | changes


def write(folder: Path, annotations, images=((1, 64, 48),), **changes) -> Path:
    content = {
        "images": [
            {"id": id, "file_name": f"{id}.png", "width": w, "height": h} for id, w, h in images
        ],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    } | changes
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    return file
