"""Find the annotations and images of a data set in COCO's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from nonlocalnet.detection.annotations import CocoError
from nonlocalnet.errors import option

FileKind = Literal["instances", "person_keypoints"]


@dataclass(frozen=True)
class CocoSplit:
    """An annotation file and the folder of its images."""

    annotations: Path
    images: Path


def find_coco(
    data: Path, kind: FileKind, *, val: Path | None = None, root: Path | None = None
) -> tuple[CocoSplit, CocoSplit | None]:
    """Find the training and the validation split.

    A folder contains annotations/KIND_train2017.json and train2017/, and optionally the same for
    val2017, as COCO's archives do. Annotation files may also be in the folder itself, and images in
    images/train2017 or images. An annotation file is a training split by itself.

    Args:
        data: a folder, or an annotation file.
        kind: kind of annotations.
        val: another folder or file to validate on; by default the folder's own validation split.
        root: folder of the images, or the folder that contains train2017 and val2017.

    Returns:
        The training split, and the validation split or None.

    Raises:
        CocoError: there are no annotations, several files for one split, or no images.

    >>> for folder in ("coco/annotations", "coco/train2017"):
    ...     Path(folder).mkdir(parents=True)
    >>> _ = Path("coco/annotations/instances_train2017.json").write_text("{}")
    >>> train, val = find_coco(Path("coco"), "instances")
    >>> train.annotations.name, train.images.name, val
    ('instances_train2017.json', 'train2017', None)
    """
    training = _find(data, kind, "train", root) or _refuse(data, kind, "train")
    if val is not None:
        return training, find_test(val, kind, root=root)
    return training, (None if data.is_file() else _find(data, kind, "val", root))


def find_test(data: Path, kind: FileKind, *, root: Path | None = None) -> CocoSplit:
    """Find the split to test on: an annotation file, or the validation split of a folder.

    Raises:
        CocoError: as `find_coco`.
    """
    return _find(data, kind, "val", root) or _refuse(data, kind, "val")


def _refuse(data: Path, kind: FileKind, split: str) -> NoReturn:
    raise CocoError(
        data,
        f"no {kind}_{split}*.json there or in annotations/: name COCO's folder, or an annotation "
        "file",
    )


def _find(data: Path, kind: FileKind, split: str, root: Path | None) -> CocoSplit | None:
    if data.is_file():
        home = data.parent.parent if data.parent.name == "annotations" else data.parent
        return CocoSplit(data, _images(home, data, root))
    found = [
        file
        for folder in (data / "annotations", data)
        for file in sorted(folder.glob(f"{kind}_{split}*.json"))
    ]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise CocoError(data, f"has several annotation files: {names}; name one of them")
    return CocoSplit(found[0], _images(data, found[0], root)) if found else None


def _images(home: Path, annotations: Path, root: Path | None) -> Path:
    split = annotations.stem.rpartition("_")[2]  # train2017
    if root is not None:
        places = [root / split, root]
    else:
        places = [home / split, home / "images" / split, home / "images", home]
    for place in places:
        if place.is_dir():
            return place
    raise CocoError(root or home, f"no such folder of images; {option('root')} names it")
