"""Find the annotations and images of a COCO data set, as it is unpacked or otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from nonlocalnet.detection.annotations import CocoError
from nonlocalnet.errors import option

FileKind = Literal["instances", "person_keypoints"]


@dataclass(frozen=True)
class CocoSplit:
    """A file of annotations and the folder of its images."""

    annotations: Path
    images: Path


def find_coco(
    data: Path, kind: FileKind, *, val: Path | None = None, root: Path | None = None
) -> tuple[CocoSplit, CocoSplit | None]:
    """Find what to train and what to validate on.

    A folder holds annotations/KIND_train2017.json and train2017/, and the same for val2017 if there
    is one, as COCO's archives unpack; the files may lie in the folder itself, and the images in
    images/train2017 or images. A file of annotations is its own training set.

    Args:
        data: a folder, or a file of annotations.
        kind: which of COCO's annotations.
        val: another folder or file to validate on; of a folder its val, if it has one.
        root: the images' folder, or what holds train2017 and val2017.

    Raises:
        CocoError: there are no annotations, several of the same split, or no images.

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
    """Find what to test on: a file of annotations, or the validation split of a folder.

    Raises:
        CocoError: as `find_coco`.
    """
    return _find(data, kind, "val", root) or _refuse(data, kind, "val")


def _refuse(data: Path, kind: FileKind, split: str) -> NoReturn:
    raise CocoError(
        data,
        f"no {kind}_{split}*.json there or in annotations/: name COCO's folder, or a file of "
        "annotations",
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
        raise CocoError(data, f"has several of the kind: {names}; name one of the files")
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
