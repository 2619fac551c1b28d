"""Annotations as varied as COCO's: objects of any shape, crowds, poses, images without objects."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.models._meta import _COCO_CATEGORIES

from nonlocalnet.detection.annotations import PERSON_KEYPOINTS
from nonlocalnet.detection.draw import SKELETON

IMAGES = 12
RADII = (10, 30, 70)  # in pixels: small, medium and large objects, as COCO counts them
CATEGORIES = [
    {"id": id, "name": name} for id, name in enumerate(_COCO_CATEGORIES) if id and name != "N/A"
]
PERSON = {
    **{"id": 1, "name": "person", "keypoints": list(PERSON_KEYPOINTS)},
    "skeleton": [[a + 1, b + 1] for a, b in SKELETON],
}


def write_ellipses(folder: Path) -> Path:
    """Write FOLDER/images and FOLDER/{instances,person_keypoints}_{train,val}.json."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for split, first in (("train", 100), ("val", 200)):
        images = [draw_image(rng, folder / "images", first + i) for i in range(IMAGES)]
        numbers = iter(range(first * 1000, first * 2000))
        objects = [
            {"id": next(numbers), **draw_object(rng, image, RADII[i % len(RADII)])}
            for image in images
            for i in range(rng.integers(4, 9))
        ]
        crowds = [{"id": next(numbers), **crowd(image)} for image in images[::3]]
        persons = [one for one in objects if one["category_id"] == 1]
        persons = [one for one in persons if one["image_id"] != first]  # an image without any
        for kind, categories, annotations in (
            ("instances", CATEGORIES, objects + crowds),
            ("person_keypoints", [PERSON], [one | pose(rng, one) for one in persons]),
        ):
            content = {"images": images, "categories": categories, "annotations": annotations}
            (folder / f"{kind}_{split}.json").write_text(json.dumps(content))
    return folder


def draw_image(rng, folder: Path, id: int) -> dict:
    height, width = (int(n) for n in rng.integers(200, 280, 2))
    name = f"{id:012d}.png"
    noise = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((width, height)).save(folder / name)
    return {"id": id, "file_name": name, "height": height, "width": width}


def draw_object(rng, image: dict, radius: float) -> dict:
    """An ellipse, of a person or of another category."""
    width, height = image["width"], image["height"]
    rx, ry = rng.uniform(0.9, 1.3, 2) * radius
    x, y = rng.uniform(rx, width - rx), rng.uniform(ry, height - ry)
    turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    corners = np.stack([x + rx * np.cos(turns), y + ry * np.sin(turns)], 1).round(2)
    left, top = corners.min(0)
    right, bottom = corners.max(0)
    ahead = np.roll(corners, -1, axis=0)
    twice = (corners[:, 0] * ahead[:, 1] - corners[:, 1] * ahead[:, 0]).sum()
    return {
        "image_id": image["id"],
        "category_id": int(rng.choice([1, 1, 3, 44, 90])),
        "bbox": [round(float(v), 2) for v in (left, top, right - left, bottom - top)],
        "area": abs(float(twice)) / 2,
        "iscrowd": 0,
        "segmentation": [corners.flatten().tolist()],
    }


def crowd(image: dict) -> dict:
    """A crowd of cars on the left of the image, as run lengths."""
    height, width = image["height"], image["width"]
    return {
        "image_id": image["id"],
        "category_id": 3,
        "bbox": [0, 0, 20, height],
        "area": 20 * height,
        "iscrowd": 1,
        "segmentation": {
            "counts": [0, 20 * height, (width - 20) * height],
            "size": [height, width],
        },
    }


def pose(rng, person: dict) -> dict:
    """Keypoints within a person; every fifth person has none."""
    x, y, w, h = person["bbox"]
    seen = rng.choice([0, 1, 2, 2], 17) * (person["id"] % 5 > 0)
    near = rng.uniform(-0.3, 0.3, (17, 2))  # within the ellipse
    points = np.stack([x + w * (0.5 + near[:, 0]), y + h * (0.5 + near[:, 1])], 1).round()
    rows = np.concatenate([points * (seen > 0)[:, None], seen[:, None]], 1)
    return {
        "keypoints": [int(value) for value in rows.flatten()],
        "num_keypoints": int((seen > 0).sum()),
    }
