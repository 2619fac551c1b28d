"""Check annotation files in COCO's format and the images that they name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nonlocalnet.detection.annotations import (
    PERSON_KEYPOINTS,
    count_visible,
    is_learnable,
    keypoint_names,
    object_faults,
    read_annotations,
    read_image,
    unknown_category,
)
from nonlocalnet.runtime.isolated import Failure, run_isolated

UNFIT = (
    "missing",  # the image file
    "unreadable",
    "size",  # of the image is not the annotated one
    "unknown image",
    "unknown category",
    "box",
    "segmentation",
    "keypoints",
    "nothing to learn",
)
PARTS = {"masks": "segmentation", "keypoints": "keypoints"}
KINDS = (*UNFIT, "outside", "num_keypoints", "duplicate")
SLACK = 1.0  # pixels by which a box may extend over the border, as some of COCO's do


@dataclass(frozen=True)
class CocoFinding:
    """A problem: its kind (one of `KINDS`), its place and a description."""

    kind: str
    where: str  # an image's file, or "annotation 17 of image 5"
    text: str


@dataclass
class CocoReport:
    """Counts and problems of an annotation file."""

    images: int
    annotations: int
    crowds: int
    empty: int  # images without an annotation
    categories: dict[str, int]  # annotations of each
    learnable: dict[str, int]  # objects usable for training on masks and on keypoints
    findings: list[CocoFinding] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Count the findings by kind."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def as_rows(self) -> list[tuple[str, str, str]]:
        """Return table rows: name, count, and for findings whether the item can still be used."""
        there = [
            ("images", self.images),
            ("images without annotations", self.empty),
            ("annotations", self.annotations),
            ("crowds among them", self.crowds),
            *((f"objects to learn {part} from", count) for part, count in self.learnable.items()),
        ]
        rows = [(name, str(count), "") for name, count in there]
        for kind, count in self.counts().items():
            rows.append((kind, str(count), "no" if kind in UNFIT else "yes"))
        return rows

    def as_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps({"counts": self.counts(), **asdict(self)}, indent=1) + "\n"


def image_size(path: Path) -> tuple[int, int]:
    """Decode a whole image and return (width, height); raises CocoError as `read_image`."""
    return read_image(path).size


def check_annotations(
    images: str | Path,
    annotations: str | Path,
    *,
    workers: int = 1,
    time_limit: float = 60.0,
    progress: Callable[[int, str], None] = lambda done, text: None,
) -> CocoReport:
    """Check a file in COCO's format and decode all images that it names.

    Reported are: images that are missing, unreadable (or crash their process, or take too long) or
    not of the annotated size; annotations of unknown images or categories, with a degenerate box or
    one that extends more than a pixel over the border, with an unusable segmentation or keypoints,
    without one that others have, or whose keypoints do not match `num_keypoints`; duplicate ids;
    categories with different keypoints; and files with nothing to learn. `CocoDataset` and
    `CocoEvaluator` judge by the same rules.

    Args:
        images: folder of the images.
        annotations: the file.
        workers: decoding processes.
        time_limit: seconds for an image.
        progress: called with the number of images done and a text about the findings so far.

    Returns:
        Counts and findings.

    Raises:
        CocoError: the file cannot be read as COCO's.
    """
    content = read_annotations(annotations)
    entries = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category for category in content["categories"]}
    findings = list(_duplicates(content))
    try:
        keypoints = len(keypoint_names(content))
    except ValueError as error:
        keypoints = len(PERSON_KEYPOINTS)
        findings.append(CocoFinding("keypoints", "categories", str(error)))
    there = [part for part in PARTS.values() if any(part in a for a in content["annotations"])]
    each = Counter(a["category_id"] for a in content["annotations"])
    report = CocoReport(
        images=len(entries),
        annotations=len(content["annotations"]),
        crowds=sum(bool(a["iscrowd"]) for a in content["annotations"]),
        empty=len(entries.keys() - {a["image_id"] for a in content["annotations"]}),
        categories={category["name"]: each[id] for id, category in categories.items()},
        learnable={
            name: sum(
                is_learnable(annotation, _size(image), [part], keypoints)
                for annotation in content["annotations"]
                if (image := entries.get(annotation["image_id"])) is not None
            )
            for name, part in PARTS.items()
        },
        findings=findings,
    )
    for annotation in content["annotations"]:
        where = f"annotation {annotation['id']} of image {annotation['image_id']}"
        report.findings += [
            CocoFinding(kind, where, text)
            for kind, text in _faults(annotation, entries, categories, there, keypoints)
        ]
    if report.annotations > report.crowds and not any(report.learnable.values()):
        text = "no object has a mask or keypoints that a detector could learn"
        report.findings.append(CocoFinding("nothing to learn", str(annotations), text))
    report.findings += _check_images(
        Path(images), list(entries.values()), workers, time_limit, progress
    )
    return report


def _duplicates(content: dict[str, Any]) -> Iterator[CocoFinding]:
    for part in ("images", "annotations", "categories"):
        for id, count in Counter(entry["id"] for entry in content[part]).items():
            if count > 1:
                yield CocoFinding("duplicate", part, f"the id {id} occurs {count} times")


def _size(image: dict[str, Any]) -> tuple[int, int]:
    return image["width"], image["height"]


def _faults(
    annotation: dict[str, Any],
    images: dict[int, Any],
    categories: dict[int, Any],
    parts: list[str],
    keypoints: int,
) -> Iterator[tuple[str, str]]:
    if fault := unknown_category(annotation, categories):
        yield "unknown category", f"it {fault}"
    image = images.get(annotation["image_id"])
    if image is None:
        yield "unknown image", f"no image has the id {annotation['image_id']}"
        return
    width, height = size = _size(image)
    faults = dict(object_faults(annotation, size, parts, keypoints))
    yield from faults.items()
    if "box" not in faults:
        x, y, w, h = annotation["bbox"]
        if max(-x, -y, x + w - width, y + h - height) > SLACK:
            yield "outside", f"its box {annotation['bbox']} leaves the {width}x{height} image"
    if "keypoints" in parts and "keypoints" not in faults:
        said = annotation.get("num_keypoints")
        if said is not None and said != (there := count_visible(annotation)):
            yield "num_keypoints", f"num_keypoints is {said}, {there} are marked"


def _check_images(
    folder: Path,
    entries: list[dict[str, Any]],
    workers: int,
    time_limit: float,
    progress: Callable[[int, str], None],
) -> Iterator[CocoFinding]:
    paths = [folder / entry["file_name"] for entry in entries]
    there = [i for i, path in enumerate(paths) if path.is_file()]
    found = len(paths) - len(there)
    for i in sorted(set(range(len(paths))) - set(there)):
        yield CocoFinding("missing", str(paths[i]), "annotated, but there is no such file")
    progress(found, f"{found} bad")
    todo = [(paths[i],) for i in there]
    for done, size in run_isolated(image_size, todo, workers=workers, time_limit=time_limit):
        path, entry = paths[there[done]], entries[there[done]]
        annotated = entry["width"], entry["height"]
        if isinstance(size, Failure) or size != annotated:
            found += 1
        if isinstance(size, Failure):
            yield CocoFinding("unreadable", str(path), size.reason.removeprefix(f"{path}: "))
        elif size != annotated:
            text = f"is {size[0]}x{size[1]}, annotated as {annotated[0]}x{annotated[1]}"
            yield CocoFinding("size", str(path), text)
        progress(1, f"{found} bad")
