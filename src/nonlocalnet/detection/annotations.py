"""Read COCO's annotation files and images, and check single annotations."""

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

from nonlocalnet.errors import FileError, shown

# COCO's keypoints of a person, for files that name none
PERSON_KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
LARGEST_LABEL = 10_000  # the largest label decides how many classes a detector has
THIN = 0.1  # pixels: the sides of a thinner box may become equal in float32
FAR = 1e5  # pixels: bound on coordinates (COCO's own bound on areas is its square)

Annotation = Mapping[str, Any]

FIELDS = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list},
    "categories": {"id": int, "name": str},
}


class CocoError(FileError):
    """An annotation file or image cannot be used; the text is "PATH: reason"."""


def read_annotations(path: str | Path) -> dict[str, Any]:
    """Read a file in COCO's format: {"images": [...], "annotations": [...], "categories": [...]}.

    "annotations" may be missing, as for COCO's test images. Missing values of an annotation are
    filled in: `iscrowd` is 0, `area` that of the box.

    Raises:
        CocoError: the file is missing, is not JSON or not in this format. Faults of single
            annotations are found by `check_annotations`.
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
    for part, name in (("images", "file_name"), ("categories", "name")):
        seen: dict[int, str] = {}
        for entry in content[part]:
            if entry["id"] in seen:
                raise CocoError(
                    path,
                    f"the {part} {shown(seen[entry['id']])} and {shown(entry[name])} have the same "
                    f"id {entry['id']}: number them",
                )
            seen[entry["id"]] = entry[name]
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
    """Hash an annotation file; weights record what they were trained and selected on."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def label_of(content: Mapping[str, Any]) -> dict[int, int]:
    """Map category ids to labels; label 0 is the background.

    Labels are the ids, as in torchvision's detectors of COCO. If an id is below 1 or above 10,000,
    all categories are numbered from 1 in the order of their ids.

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
    """Return the names of the keypoints: those of the categories, or COCO's 17 if they name none.

    Raises:
        ValueError: categories name different keypoints; a detector has one list for all.

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
    """Describe that the file does not list an annotation's category; "" if it does."""
    if annotation["category_id"] in categories:
        return ""
    return (
        f"is of category {annotation['category_id']}, which the file does not list: add it to the "
        "categories, or remove the annotation"
    )


def object_faults(
    annotation: Annotation,
    size: tuple[int, int],
    parts: Collection[str],
    keypoints: int,
    *,
    inside: bool = True,
) -> Iterator[tuple[str, str]]:
    """Yield the faults of an object as (part, reason); nothing if it can be used.

    Training, testing and checking all judge by this function and `is_learnable`.

    Args:
        annotation: an annotation of `read_annotations`.
        size: (width, height) of its image.
        parts: what is needed besides the box: "segmentation", "keypoints".
        keypoints: required number of keypoints.
        inside: whether the box must have an area within the image.
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
    """Tell whether training uses an object: no fault, no crowd, a visible keypoint if needed.

    Arguments are those of `object_faults`.
    """
    if annotation["iscrowd"] or any(object_faults(annotation, size, parts, keypoints)):
        return False
    return "keypoints" not in parts or count_visible(annotation) > 0


def read_image(path: Path, *, upright: bool = False) -> Image.Image:
    """Decode a whole image file to RGB; 16-bit gray becomes 8 bits, transparency becomes white.

    Args:
        path: the file.
        upright: rotate according to the EXIF data. COCO's annotations expect no rotation.

    Raises:
        CocoError: the file is missing, broken, or exceeds Pillow's limit of pixels
            (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    if not path.is_file():
        advice = "" if upright else ": put it there, or remove it from the annotations"
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
    except Exception as error:  # broken files make Pillow's decoders raise anything
        raise CocoError(path, f"not a readable image ({error}); copy it again") from error


def _as_seen(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip values above 255
        gray = np.asarray(image).clip(0, 65535) / 257
        image = Image.fromarray(gray.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def box_fault(annotation: Annotation, size: tuple[int, int] | None = None) -> str:
    """Describe the fault of a box x, y, w, h in an image of size (width, height); "" if none."""
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
    """Describe the fault of polygons or run lengths in an image of size (w, h); "" if none."""
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
        # COCO has some of two points; as the first polygon, its code would read one as a box
        least = 4 if i else 6
        if not isinstance(polygon, list) or len(polygon) < least or len(polygon) % 2:
            return f"a polygon must be 3 points x, y or more; one is {_short(polygon)}"
        if not _are_near(polygon, 2 * max(width, height)):
            return f"a polygon leaves the image or does not consist of numbers: {_short(polygon)}"
    return ""


def keypoints_fault(annotation: Annotation, count: int) -> str:
    """Describe the fault of keypoints, x, y and visibility 0 to 2 each; "" if there is none."""
    keypoints = annotation.get("keypoints")
    if not isinstance(keypoints, list) or len(keypoints) != 3 * count:
        many = f"{len(keypoints)} numbers" if isinstance(keypoints, list) else _short(keypoints)
        return f"its keypoints must be {count} times x, y, visibility; they are {many}"
    if not _are_near(keypoints):
        return f"its keypoints do not consist of coordinates: {_short(keypoints)}"
    if not set(keypoints[2::3]) <= {0, 1, 2}:
        return f"a keypoint's visibility is 0, 1 or 2; they are {_short(keypoints[2::3])}"
    return ""


def count_visible(annotation: Annotation) -> int:
    """Count the keypoints with a visibility above 0."""
    return sum(v > 0 for v in annotation["keypoints"][2::3])


def _run_lengths(text: str) -> list[int] | None:
    """Read COCO's compressed run lengths; None if they are broken, which would crash its code.

    A character is 48 plus 5 bits of a number, lowest bits first, plus 32 if more follow; the
    highest bit of the last character is the sign. From the fourth number on, each is the difference
    to the number two places before.
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
    """Tell whether all are finite numbers of at most `far` in magnitude."""
    return all(
        isinstance(n, int | float) and math.fabs(n) <= far  # a bool is drawn as 0 or 1
        for n in numbers
    )


def _short(thing: object) -> str:
    text = repr(thing)
    return text if len(text) <= 60 else f"{text[:57]}..."
