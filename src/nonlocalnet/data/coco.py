"""COCO's images with boxes, masks and keypoints, as torchvision's R-CNNs take them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from nonlocalnet.data.coco_files import (
    NUM_KEYPOINTS,
    CocoError,
    box_fault,
    count_visible,
    keypoints_fault,
    read_annotations,
    read_image,
    segmentation_fault,
)
from nonlocalnet.data.draws import Draw, Unreadable, seeded

Target = dict[str, Any]

MOST_CLASSES = 10_000
BACKGROUND, NOTHING = "__background__", "N/A"  # as torchvision names them


class CocoDataset(Dataset[tuple[tv_tensors.Image, Target]]):
    """Read images and what is on them: item i is (image, target).

    image: uint8 (3, H, W) RGB, a `tv_tensors.Image`; target, for N objects:

    ==============  ==================================================================
    ``boxes``       float32 (N, 4): x1, y1, x2, y2 in pixels, `tv_tensors.BoundingBoxes`
    ``labels``      int64 (N,): COCO's category ids, 1 to 90 with gaps; 0 is background
    ``masks``       uint8 (N, H, W) of 0 and 1, `tv_tensors.Mask`; with `masks`
    ``keypoints``   float32 (N, 17, 3): x, y of a pixel, visibility; with `keypoints`
    ``area``        float32 (N,): pixels of the original image that an object covers
    ``iscrowd``     int64 (N,): 1 for a region of many objects
    ``image_id``    the image's id in the annotations
    ``size``        (H, W) of the original image
    ==============  ==================================================================

    Boxes are cut off at the image's border. Objects whose box is degenerate, or whose mask or
    keypoints, where asked for, cannot be used are left out; `check_annotations` lists them.
    Keypoints of visibility 0 are at 0, 0, as in the annotations.

    >>> import json
    >>> from PIL import Image
    >>> Image.new("RGB", (40, 30)).save("7.png")
    >>> car = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [4, 5, 10, 10]}
    >>> content = {
    ...     "images": [{"id": 7, "file_name": "7.png", "height": 30, "width": 40}],
    ...     "categories": [{"id": 3, "name": "car"}],
    ...     "annotations": [car],
    ... }
    >>> _ = Path("cars.json").write_text(json.dumps(content))
    >>> image, target = CocoDataset(".", "cars.json", masks=False)[0]
    >>> image.shape, target["boxes"].tolist(), target["labels"]
    (torch.Size([3, 30, 40]), [[4.0, 5.0, 14.0, 15.0]], tensor([3]))

    Args:
        images: the folder of the images.
        annotations: a file of COCO's format: instances_*.json, or person_keypoints_*.json.
        transform: from and to (image, target), e.g. `ImageTrainTransform`; it gets the keypoints as
            ``keypoints`` (N, 17, 2), `tv_tensors.KeyPoints`, and ``visibility`` (N, 17).
        keypoints: whether to give the keypoints of persons.
        masks: whether to draw the masks.
        training: leave out crowds, with `keypoints` objects without a visible one, and then
            images without an object. Without it every image is given, with crowds.
        keep_empty: in training too, keep the images without an object.
        max_bad: share of images that cannot be read above which training ends with a RuntimeError;
            up to it another image, drawn at random, takes the place of each (`bad_indices`).

    Chance is torch's global generator's. Asked for as a `Draw`, an item depends on its seed alone.

    Raises:
        CocoError: the annotations cannot be read, name an unknown category or have one below 1,
            or leave no image; and, from an item when not training, its image is missing, broken,
            too large or of another size than annotated.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        transform: Callable[..., Any] | None = None,
        *,
        keypoints: bool = False,
        masks: bool = True,
        training: bool = True,
        keep_empty: bool = False,
        max_bad: float = 0.1,
    ) -> None:
        if not Path(images).is_dir():
            raise CocoError(images, "no such folder: pass the one that holds the images")
        self.images, self.annotations, self.transform = Path(images), Path(annotations), transform
        self.keypoints, self.masks, self.training = keypoints, masks, training
        self.coco = _index(read_annotations(annotations))
        self._check_categories()
        self._objects = {
            id: [a for a in self.coco.imgToAnns.get(id, ()) if self._is_usable(a, image)]
            for id, image in self.coco.imgs.items()
        }
        all_of_them = keep_empty or not training
        self.ids = sorted(i for i, objects in self._objects.items() if objects or all_of_them)
        if not self.ids:
            what = "keypoints" if keypoints else "objects"
            raise CocoError(annotations, f"has no image with {what} to learn from")
        self.unreadable = Unreadable([self.name(i) for i in range(len(self))], "images", max_bad)

    @property
    def classes(self) -> list[str]:
        """The names of the labels, from 0, the background; "N/A" where there is none."""
        names = {id: category["name"] for id, category in self.coco.cats.items()}
        return [BACKGROUND, *(names.get(id, NOTHING) for id in range(1, max(names, default=0) + 1))]

    def name(self, index: int) -> str:
        """Name an item's image file."""
        return str(self.images / self.coco.imgs[self.ids[index]]["file_name"])

    def bad_indices(self) -> list[int]:
        """List the items that could not be read so far, by any worker."""
        return self.unreadable.indices()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int | Draw) -> tuple[tv_tensors.Image, Target]:
        if isinstance(index, Draw):
            with seeded(index.seed):
                return self[index.item]
        while True:
            try:
                return self._read(self.ids[index])
            except CocoError as error:
                if not self.training:
                    raise
                self.unreadable.add(index, error)
                index = self.unreadable.replacement()

    def _read(self, id: int) -> tuple[tv_tensors.Image, Target]:
        image, target = self._load_image(id), self._load_target(id)
        if self.transform is not None:
            image, target = self.transform(image, target)
        if self.keypoints:
            visibility = target.pop("visibility")
            points = target["keypoints"].as_subclass(Tensor) * (visibility > 0)[..., None]
            target["keypoints"] = torch.cat([points, visibility[..., None]], dim=-1)
        return image, target

    def _load_image(self, id: int) -> tv_tensors.Image:
        entry = self.coco.imgs[id]
        path = self.images / entry["file_name"]
        image = read_image(path)
        annotated = entry["width"], entry["height"]
        if image.size != annotated:
            raise CocoError(
                path,
                f"is {image.width}x{image.height}, {self.annotations} says "
                f"{annotated[0]}x{annotated[1]}: put the original there",
            )
        return tv_tensors.Image(image)

    def _load_target(self, id: int) -> Target:
        objects = self._objects[id]
        size = self.coco.imgs[id]["height"], self.coco.imgs[id]["width"]
        boxes = tv_tensors.BoundingBoxes(  # ty: ignore[no-matching-overload]
            torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).view(-1, 4),
            format=tv_tensors.BoundingBoxFormat.XYWH,
            canvas_size=size,
        )
        boxes = F.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
        target: Target = {
            "boxes": F.clamp_bounding_boxes(boxes),
            "labels": torch.tensor([a["category_id"] for a in objects], dtype=torch.int64),
            "area": torch.tensor([a["area"] for a in objects], dtype=torch.float32),
            "iscrowd": torch.tensor([a["iscrowd"] for a in objects], dtype=torch.int64),
            "image_id": id,
            "size": size,
        }
        if self.masks:
            masks = np.zeros((len(objects), *size), np.uint8)
            for mask, annotation in zip(masks, objects, strict=True):
                mask[:] = self.coco.annToMask(annotation)
            target["masks"] = tv_tensors.Mask(masks)
        if self.keypoints:
            points = torch.tensor([a["keypoints"] for a in objects], dtype=torch.float32)
            points = points.view(-1, NUM_KEYPOINTS, 3)
            target["keypoints"] = tv_tensors.KeyPoints(  # ty: ignore[no-matching-overload]
                points[..., :2], canvas_size=size
            )
            target["visibility"] = points[..., 2]
        return target

    def _is_usable(self, annotation: dict[str, Any], image: dict[str, Any]) -> bool:
        size = image["width"], image["height"]
        if self.training and annotation["iscrowd"]:
            return False
        if box_fault(annotation, size):
            return False
        if self.masks and segmentation_fault(annotation, size):
            return False
        if self.keypoints and keypoints_fault(annotation):
            return False
        return not (self.keypoints and self.training) or count_visible(annotation) > 0

    def _check_categories(self) -> None:
        if min(self.coco.cats, default=1) < 1:
            raise CocoError(self.annotations, "has a category below 1; 0 is the background")
        if max(self.coco.cats, default=1) > MOST_CLASSES:
            raise CocoError(
                self.annotations,
                f"has the category {max(self.coco.cats)}: ids are labels, number them from 1",
            )
        for annotation in self.coco.dataset["annotations"]:
            if annotation["category_id"] not in self.coco.cats:
                raise CocoError(
                    self.annotations,
                    f"annotation {annotation['id']} is of category {annotation['category_id']}, "
                    "which the file does not list: add it to the categories, or take the "
                    "annotation out",
                )


def _index(content: dict[str, Any]) -> COCO:
    """Index what `read_annotations` gives, by pycocotools, without its messages."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
