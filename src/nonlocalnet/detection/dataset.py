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

from nonlocalnet.data.seeding import Draw, Unreadable, seeded
from nonlocalnet.detection.annotations import (
    CocoError,
    is_learnable,
    keypoint_names,
    label_of,
    object_faults,
    read_annotations,
    read_image,
    unknown_category,
)

Target = dict[str, Any]

BACKGROUND, NOTHING = "__background__", "N/A"  # as torchvision names them


class CocoDataset(Dataset[tuple[tv_tensors.Image, Target]]):
    """Read images and what is on them: item i is (image, target).

    image: uint8 (3, H, W) RGB, a `tv_tensors.Image`; target, for N objects:

    ==============  ==================================================================
    ``boxes``       float32 (N, 4): x1, y1, x2, y2 in pixels, `tv_tensors.BoundingBoxes`
    ``labels``      int64 (N,): COCO's category ids, 1 to 90 with gaps; 0 is background;
                    numbered from 1 where ids cannot be labels (`coco_files.label_of`)
    ``masks``       uint8 (N, H, W) of 0 and 1, `tv_tensors.Mask`; with `masks`
    ``keypoints``   float32 (N, K, 3): x, y of a pixel, visibility; with `keypoints`
    ``area``        float32 (N,): pixels of the original image that an object covers
    ``iscrowd``     int64 (N,): 1 for a region of many objects
    ``image_id``    the image's id in the annotations
    ``size``        (H, W) of the original image
    ==============  ==================================================================

    K is 17, or as many keypoints as the categories name (`keypoint_names`).

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
            ``keypoints`` (N, K, 2), `tv_tensors.KeyPoints`, and ``visibility`` (N, K).
        keypoints: whether to give the keypoints.
        masks: whether to draw the masks.
        training: leave out crowds, with `keypoints` objects without a visible one, and then
            images without an object. Without it every image is given, with crowds.
        keep_empty: in training too, keep the images without an object.
        max_bad: share of images that cannot be read above which training ends with a RuntimeError;
            up to it another image, drawn at random, takes the place of each (`bad_indices`).

    Chance is torch's global generator's. Asked for as a `Draw`, an item depends on its seed alone.

    Raises:
        CocoError: the annotations cannot be read, name an unknown category, or with `keypoints`
            several lists of keypoints, or leave no image; and, from an item when not training, its
            image is missing, broken, too large or of another size than annotated.
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
        self._label_of = label_of(self.coco.dataset)
        self._check_categories()
        try:
            self.keypoint_names = keypoint_names(self.coco.dataset) if keypoints else ()
        except ValueError as error:
            raise CocoError(annotations, str(error)) from None
        self._objects = {
            id: [a for a in self.coco.imgToAnns.get(id, ()) if self._is_usable(a, image)]
            for id, image in self.coco.imgs.items()
        }
        all_of_them = keep_empty or not training
        self.ids = sorted(i for i, objects in self._objects.items() if objects or all_of_them)
        if not self.ids:
            raise CocoError(annotations, self._nothing())
        self.unreadable = Unreadable([self.name(i) for i in range(len(self))], "images", max_bad)

    @property
    def classes(self) -> list[str]:
        """The names of the labels, from 0, the background; "N/A" where there is none."""
        names = {self._label_of[id]: of["name"] for id, of in self.coco.cats.items()}
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
            "labels": torch.tensor(
                [self._label_of[a["category_id"]] for a in objects], dtype=torch.int64
            ),
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
            points = points.view(-1, len(self.keypoint_names), 3)
            target["keypoints"] = tv_tensors.KeyPoints(  # ty: ignore[no-matching-overload]
                points[..., :2], canvas_size=size
            )
            target["visibility"] = points[..., 2]
        return target

    def _is_usable(self, annotation: dict[str, Any], image: dict[str, Any]) -> bool:
        judged = self._judged(annotation, image)
        return is_learnable(*judged) if self.training else not any(object_faults(*judged))

    def _judged(self, annotation: dict[str, Any], image: dict[str, Any]) -> tuple[Any, ...]:
        parts = ["segmentation"] * self.masks + ["keypoints"] * self.keypoints
        return annotation, (image["width"], image["height"]), parts, len(self.keypoint_names)

    def _nothing(self) -> str:
        """Say that there is nothing to learn, and what is wrong with the first object."""
        text = f"has no image with {'keypoints' if self.keypoints else 'objects'} to learn from"
        for id, image in self.coco.imgs.items():
            for annotation in self.coco.imgToAnns.get(id, ()):
                for _, fault in object_faults(*self._judged(annotation, image)):
                    return f"{text}: of annotation {annotation['id']}, for one, {fault}"
        return text

    def _check_categories(self) -> None:
        for annotation in self.coco.dataset["annotations"]:
            if fault := unknown_category(annotation, self.coco.cats):
                raise CocoError(self.annotations, f"annotation {annotation['id']} {fault}")


def _index(content: dict[str, Any]) -> COCO:
    """Index what `read_annotations` gives, by pycocotools, without its messages."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
