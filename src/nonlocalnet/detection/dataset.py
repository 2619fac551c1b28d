"""A data set of COCO images with boxes, masks and keypoints, for torchvision's R-CNNs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from nonlocalnet.detection.masks import draw_mask

Target = dict[str, Any]

BACKGROUND, NOTHING = "__background__", "N/A"  # as torchvision names them


class CocoDataset(Dataset[tuple[tv_tensors.Image, Target]]):
    """Images and the objects in them: item i is (image, target).

    image: uint8 (3, H, W) RGB, a `tv_tensors.Image`; target, for N objects:

    ==============  ==================================================================
    ``boxes``       float32 (N, 4): x1, y1, x2, y2 in pixels, `tv_tensors.BoundingBoxes`
    ``labels``      int64 (N,): COCO's category ids, 1 to 90 with gaps; 0 is background;
                    numbered from 1 where ids cannot be labels (`annotations.label_of`)
    ``masks``       uint8 (N, H, W) of 0 and 1, `tv_tensors.Mask`; with `masks`
    ``keypoints``   float32 (N, K, 3): x, y of a pixel, visibility; with `keypoints`
    ``area``        float32 (N,): pixels of the original image that an object covers
    ``iscrowd``     int64 (N,): 1 for a region of many objects
    ``image_id``    the image's id in the annotations
    ``size``        (H, W) of the original image
    ==============  ==================================================================

    K is the number of keypoints that the categories name, or 17 (`keypoint_names`).

    Boxes are clipped to the image. Objects with a degenerate box, or with an unusable mask or
    unusable keypoints if these are requested, are left out; `check_annotations` lists them.
    Keypoints of visibility 0 are at 0, 0, as in the annotations.

    Randomness comes from torch's global generator. An item requested as a `Draw` depends on its
    seed only.

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
        images: folder of the images.
        annotations: a file in COCO's format: instances_*.json or person_keypoints_*.json.
        transform: maps (image, target) to (image, target), such as `ImageTrainTransform`; it gets
            ``keypoints`` (N, K, 2), `tv_tensors.KeyPoints`, and ``visibility`` (N, K).
        keypoints: whether targets contain keypoints.
        masks: whether targets contain masks.
        training: leave out crowds, objects without a visible keypoint if `keypoints` is set, and
            then images without objects. Otherwise all images are given, with crowds.
        keep_empty: keep images without objects in training too.
        max_bad: largest share of unreadable images in training. Each is replaced by another image
            at random (`bad_indices`); more of them raise a RuntimeError.

    Raises:
        CocoError: the annotations cannot be read, name an unknown category, name several lists of
            keypoints although `keypoints` is set, or leave no image; or an item is requested when
            not training, and its image is missing, broken, too large or not of the annotated size.
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
        content = read_annotations(annotations)
        self._label_of = label_of(content)
        self._names = {self._label_of[of["id"]]: of["name"] for of in content["categories"]}
        try:
            self.keypoint_names = keypoint_names(content) if keypoints else ()
        except ValueError as error:
            raise CocoError(annotations, str(error)) from None
        self.entries = {entry["id"]: entry for entry in content["images"]}
        self._objects: dict[int, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            if fault := unknown_category(annotation, self._label_of):
                raise CocoError(annotations, f"annotation {annotation['id']} {fault}")
            image = self.entries.get(annotation["image_id"])
            if image is not None and self._is_usable(annotation, image):
                self._objects.setdefault(annotation["image_id"], []).append(annotation)
        all_of_them = keep_empty or not training
        self.ids = sorted(self.entries if all_of_them else self._objects)
        if not self.ids:
            raise CocoError(annotations, self._nothing(content))
        self.unreadable = Unreadable([self.name(i) for i in range(len(self))], "images", max_bad)

    @property
    def classes(self) -> list[str]:
        """Class names by label, from 0, the background; "N/A" for labels that are not used."""
        labels = range(1, max(self._names, default=0) + 1)
        return [BACKGROUND, *(self._names.get(label, NOTHING) for label in labels)]

    def name(self, index: int) -> str:
        """Return the path of an item's image."""
        return str(self.images / self.entries[self.ids[index]]["file_name"])

    def bad_indices(self) -> list[int]:
        """List the items that no worker could read so far."""
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
        entry = self.entries[id]
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
        objects = self._objects.get(id, [])
        size = self.entries[id]["height"], self.entries[id]["width"]
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
                mask[:] = draw_mask(annotation["segmentation"], size)
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

    def _nothing(self, content: dict[str, Any]) -> str:
        """Describe why there is nothing to learn, with the first fault as an example."""
        text = f"has no image with {'keypoints' if self.keypoints else 'objects'} to learn from"
        for annotation in content["annotations"]:
            image = self.entries.get(annotation["image_id"])
            for _, fault in object_faults(*self._judged(annotation, image)) if image else ():
                return f"{text}: of annotation {annotation['id']}, for one, {fault}"
        return text
