"""Read COCO's files, annotations and images, or say in one sentence why one is unfit."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from nonlocalnet.errors import FileError

# COCO's keypoints of a person, which a file that names none has
PERSON_KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
LARGEST_LABEL = 10_000  # a detector has as many classes as its largest label says
THIN = 0.1  # pixels: the sides of a thinner box may fall together in float32
FAR = 1e5  # pixels: no coordinate lies further out (COCO's own bound on areas is its square)

Annotation = Mapping[str, Any]

FIELDS = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list},
    "categories": {"id": int, "name": str},
}


class CocoError(FileError):
    """Say which annotations or image cannot be used, and why: "PATH: reason"."""


def read_annotations(path: str | Path) -> dict[str, Any]:
    """Read a file of COCO's format: {"images": [...], "annotations": [...], "categories": [...]}.

    Without "annotations" (COCO's test images) there are none. Where an annotation does not say,
    `iscrowd` is 0 and `area` that of its box.

    Raises CocoError for a file that is missing, no JSON, or not of this format; what is wrong with
    single annotations, `check_annotations` says.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CocoError(path, f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise CocoError(path, f"not readable as JSON ({error}); copy the file again") from None
    if not isinstance(content, dict):
        raise CocoError(path, f"expected COCO's JSON object, got a {type(content).__name__}")
    content.setdefault("annotations", [])
    for part, fields in FIELDS.items():
        entries = content.get(part)
        if not isinstance(entries, list):
            raise CocoError(
                path,
                f"has no list of {part}, so it is not in COCO's format: pass a file such as "
                "instances_val2017.json",
            )
        for i, entry in enumerate(entries):
            for key, kind in fields.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                    raise CocoError(
                        path,
                        f"entry {i} of its {part} has no {key} of type {kind.__name__}: pass a "
                        "file of instances or person keypoints",
                    )
    for category in content["categories"]:
        names = category.setdefault("keypoints", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CocoError(
                path,
                f"the keypoints of category {category['id']} must be a list of names, not "
                f"{_short(names)}",
            )
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault(
            "area", 0 if box_fault(annotation) else math.prod(annotation["bbox"][2:])
        )
        if annotation["iscrowd"] not in (0, 1) or not _are_near([annotation["area"]], FAR**2):
            raise CocoError(
                path,
                f"annotation {annotation['id']}: iscrowd is 0 or 1 and area a number of pixels, "
                f"not {_short(annotation['iscrowd'])} and {_short(annotation['area'])}",
            )
    return content


def identify_annotations(path: Path) -> str:
    """Hash a file of annotations: weights say with it what they were trained on and chosen by."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def label_of(content: Mapping[str, Any]) -> dict[int, int]:
    """Number the categories of `read_annotations`: {category id: label}, 0 is the background.

    A label is the id, as torchvision's detectors of COCO have it. Where an id cannot be one, as it
    is below 1 or above 10,000, all are numbered from 1 in the order of the ids.

    >>> label_of({"categories": [{"id": 1}, {"id": 90}]})
    {1: 1, 90: 90}
    >>> label_of({"categories": [{"id": 0}, {"id": 90}]})
    {0: 1, 90: 2}
    """
    ids = sorted({category["id"] for category in content["categories"]})
    if ids and not 1 <= ids[0] <= ids[-1] <= LARGEST_LABEL:
        return {id: label for label, id in enumerate(ids, 1)}
    return {id: id for id in ids}


def keypoint_names(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the keypoints of `read_annotations`: its categories', or COCO's 17 if they name none.

    Raises ValueError where categories name different ones: a detector has one list of them.

    >>> keypoint_names({"categories": [{"id": 1, "keypoints": ["nose", "tail"]}, {"id": 2}]})
    ('nose', 'tail')
    """
    lists = {tuple(category.get("keypoints", ())): category for category in content["categories"]}
    lists.pop((), None)
    if len(lists) > 1:
        first, second = list(lists.values())[:2]
        raise ValueError(
            f"the categories {first['name']!r} and {second['name']!r} name different keypoints, "
            "and a detector has one list for all: make it the same, or train on one of them"
        )
    return next(iter(lists), PERSON_KEYPOINTS)


def unknown_category(annotation: Annotation, categories: Collection[int]) -> str:
    """Say that the file does not list an annotation's category, "" if it does."""
    if annotation["category_id"] in categories:
        return ""
    return (
        f"is of category {annotation['category_id']}, which the file does not list: add it to the "
        "categories, or take the annotation out"
    )


def object_faults(
    annotation: Annotation,
    size: tuple[int, int],
    parts: Collection[str],
    keypoints: int,
    *,
    inside: bool = True,
) -> Iterator[tuple[str, str]]:
    """Say why an object cannot be learned or scored: (what is unfit, why); nothing if it is fit.

    The one judgment of training, testing and checking, as is `is_learnable`.

    Args:
        annotation: of `read_annotations`.
        size: (width, height) of its image.
        parts: what is needed beside the box: "segmentation", "keypoints".
        keypoints: how many there must be.
        inside: whether its box must have an area within the image.
    """
    if fault := box_fault(annotation, size if inside else None):
        yield "box", fault
    if "segmentation" in parts and (fault := segmentation_fault(annotation, size)):
        yield "segmentation", fault
    if "keypoints" in parts and (fault := keypoints_fault(annotation, keypoints)):
        yield "keypoints", fault


def is_learnable(
    annotation: Annotation, size: tuple[int, int], parts: Collection[str], keypoints: int
) -> bool:
    """Whether training learns from an object: fit, no crowd, and with a visible keypoint if asked.

    Arguments as in `object_faults`.
    """
    if annotation["iscrowd"] or any(object_faults(annotation, size, parts, keypoints)):
        return False
    return "keypoints" not in parts or count_visible(annotation) > 0


def read_image(path: Path, *, upright: bool = False) -> Image.Image:
    """Decode an image file to its end, to RGB: 16 bits of gray brought to 8, transparent on white.

    upright: turned as its EXIF data say, as people see it. Without, no rotation, as COCO's
    annotations expect.

    Raises CocoError for a file that is missing, broken, or beyond Pillow's limit of pixels
    (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    if not path.is_file():
        advice = "" if upright else ": put it there, or take it out of the annotations"
        raise CocoError(path, f"no such image{advice}")
    try:
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(path) as image,
        ):
            return _as_seen(ImageOps.exif_transpose(image) if upright else image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise CocoError(
            path, f"has more than the {Image.MAX_IMAGE_PIXELS:,} pixels allowed: make it smaller"
        ) from None
    except Exception as error:  # whatever broken bytes lead Pillow's decoders to
        raise CocoError(path, f"not a readable image ({error}); copy it again") from error


def _as_seen(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, of which Pillow would cut off what is above 255
        gray = np.asarray(image).clip(0, 65535) / 257
        image = Image.fromarray(gray.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def box_fault(annotation: Annotation, size: tuple[int, int] | None = None) -> str:
    """Say why a box is unfit, "" if it is fit: x, y, w, h, with an area in the (width, height)."""
    box = annotation["bbox"]
    if len(box) != 4 or not _are_near(box):
        return f"its box must be 4 numbers x, y, width, height; it is {_short(box)}"
    if size is not None:
        x, y, w, h = box
        inside = min(x + w, size[0]) - max(x, 0), min(y + h, size[1]) - max(y, 0)
        if min(w, h, *inside) < THIN:
            return f"its box {box} has no area within the {size[0]}x{size[1]} image"
    return ""


def segmentation_fault(annotation: Annotation, size: tuple[int, int]) -> str:
    """Say why a segmentation is unfit, "" if it is fit: polygons, or run lengths of the image.

    size: (width, height) of the image.
    """
    width, height = size
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return "its segmentation is empty"
    if isinstance(segmentation, dict):
        counts, said = segmentation.get("counts"), segmentation.get("size")
        if said != [height, width]:
            return f"its run lengths are of the size {_short(said)}, not {[height, width]}"
        if isinstance(counts, str):
            counts = _run_lengths(counts)
        if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
            return f"its run lengths are no counts of pixels: {_short(segmentation)}"
        covered = sum(counts)
        return "" if covered == height * width else f"its run lengths cover {covered} pixels"
    if not isinstance(segmentation, list):
        return f"its segmentation is neither polygons nor run lengths: {_short(segmentation)}"
    for i, polygon in enumerate(segmentation):
        # COCO has a few of two points; first of all, pycocotools would take one for a box
        least = 4 if i else 6
        if not isinstance(polygon, list) or len(polygon) < least or len(polygon) % 2:
            return f"a polygon must be 3 points x, y or more; one is {_short(polygon)}"
        if not _are_near(polygon, 2 * max(width, height)):
            return f"a polygon leaves the image, or holds what is no number: {_short(polygon)}"
    return ""


def keypoints_fault(annotation: Annotation, count: int) -> str:
    """Say why keypoints are unfit, "" if they are fit: x, y, visibility 0 to 2 for each."""
    keypoints = annotation.get("keypoints")
    if not isinstance(keypoints, list) or len(keypoints) != 3 * count:
        many = f"{len(keypoints)} numbers" if isinstance(keypoints, list) else _short(keypoints)
        return f"its keypoints must be {count} times x, y, visibility; they are {many}"
    if not _are_near(keypoints):
        return f"its keypoints hold what is no coordinate: {_short(keypoints)}"
    if not set(keypoints[2::3]) <= {0, 1, 2}:
        return f"a keypoint's visibility is 0, 1 or 2; they are {_short(keypoints[2::3])}"
    return ""


def count_visible(annotation: Annotation) -> int:
    """Count the keypoints with a visibility above 0."""
    return sum(v > 0 for v in annotation["keypoints"][2::3])


def _run_lengths(text: str) -> list[int] | None:
    """Read COCO's compressed run lengths, None if they are broken: pycocotools would crash.

    A character is 48 + 5 bits of a number, lowest first, + 32 if more follow; the highest bit of
    the last is its sign. From the fourth on, numbers are differences to that two before.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts


def _are_near(numbers: list[Any], far: float = FAR) -> bool:
    """Whether all are finite numbers not beyond `far`; NaN is not."""
    return all(
        isinstance(n, int | float) and math.fabs(n) <= far  # a bool is drawn as 0 or 1
        for n in numbers
    )


def _short(thing: object) -> str:
    text = repr(thing)
    return text if len(text) <= 60 else f"{text[:57]}..."
