"""COCO: images with boxes, masks and keypoints, which move together under every transform."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as rle
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import ColorJitter, RandomShortestSize
from torchvision.transforms.v2 import functional as F

Target = dict[str, Any]

SHORT_SIDES, MAX_SIDE = (800,), 1333
MAX_PIXELS = 64_000_000  # an image beyond is hostile or a mistake
# left and right of COCO's 17: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles
MIRRORED = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


class ImageError(ValueError):
    """Say which image cannot be read, and why."""


class CocoDataset(Dataset):
    """Give images with what is to be found in them: (image, target).

    image: uint8 (3, H, W) RGB. target: boxes (N, 4) left, top, right, bottom, float32; labels (N,)
    COCO's category ids, as torchvision's detectors count them; area (N,); image_id; and masks
    (N, H, W) uint8, or keypoints (N, 17, 3) x, y, visible.

    Args:
        images: the folder of the images.
        annotations: COCO's JSON: the file, or what it holds.
        transform: (image, target) -> (image, target), such as `TrainTransform`.
        train: leave out crowds, which are no single objects, and images without an object (for
            keypoints: without a person that has a visible one). In testing all images are given.
        masks, keypoints: which of the two to read.

    Raises:
        FileNotFoundError, ValueError: no such folder or file, no COCO annotations, none that fits.
        ImageError: by an item whose image is missing, damaged or larger than 64 million pixels.

    Source: COCO's data format; torchvision's detection references leave out the same.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path | Mapping[str, Any],
        transform: Callable[[Tensor, Target], tuple[Tensor, Target]] | None = None,
        *,
        train: bool = False,
        masks: bool = True,
        keypoints: bool = False,
    ) -> None:
        self.images, self.transform = Path(images), transform
        self.masks, self.keypoints = masks, keypoints
        if not self.images.is_dir():
            raise FileNotFoundError(f"no folder of images at {self.images}")
        data = read_annotations(annotations)
        self.categories = {one["id"]: one["name"] for one in data["categories"]}
        objects: dict[int, list[dict[str, Any]]] = {one["id"]: [] for one in data["images"]}
        for one in data["annotations"]:
            _check_object(one, objects, self.categories)
            if not (train and self._is_left_out(one)):
                objects[one["image_id"]].append(one)
        self.records = [
            (one, objects[one["id"]])
            for one in sorted(data["images"], key=lambda one: one["id"])
            if objects[one["id"]] or not train
        ]
        if not self.records:
            raise ValueError(f"{annotations}: no image has an object to learn from")

    def _is_left_out(self, one: Mapping[str, Any]) -> bool:
        """Crowds, boxes without an area, people without a visible keypoint."""
        _, _, width, height = one["bbox"]
        if one.get("iscrowd", 0) or width < 1 or height < 1:
            return True
        return self.keypoints and not any(one.get("keypoints", ())[2::3])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        record, objects = self.records[index]
        image = read_image(self.images / record["file_name"])
        size = image.shape[1], image.shape[2]
        boxes = torch.tensor([one["bbox"] for one in objects], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        target: Target = {
            "boxes": _lay(tv_tensors.BoundingBoxes, boxes, size, format="XYXY"),
            "labels": torch.tensor([one["category_id"] for one in objects], dtype=torch.int64),
            "area": torch.tensor([float(one["area"]) for one in objects]),
            "image_id": record["id"],
        }
        if self.keypoints:
            points = [one["keypoints"] for one in objects]
            target["keypoints"] = torch.tensor(points, dtype=torch.float32).view(len(points), -1, 3)
        elif self.masks:
            target["masks"] = tv_tensors.Mask(_masks(objects, size))
        return (image, target) if self.transform is None else self.transform(image, target)


class TrainTransform:
    """Scale to one of several short sides, mirror with a probability, jitter colours if asked.

    Boxes, masks and keypoints go along; in the mirror, left and right keypoints change places.
    Chance comes from torch's global generator alone.

    Args:
        short_sides: pixels, one is drawn; the paper names none: 800 was its detectors' custom, and
            (640, 672, ..., 800) that of the longer schedules of later ones.
        max_side: of the longer side.
        flip: probability of the mirror image.
        jitter: of brightness, contrast and saturation; 0 is none.
    """

    def __init__(
        self,
        short_sides: Sequence[int] = SHORT_SIDES,
        max_side: int = MAX_SIDE,
        flip: float = 0.5,
        jitter: float = 0.0,
    ) -> None:
        if not short_sides or min(*short_sides, max_side) < 1:
            raise ValueError(
                f"short_sides must be at least one number of pixels, and max_side one; got "
                f"{tuple(short_sides)} and {max_side}"
            )
        if not 0 <= flip <= 1 or jitter < 0:
            raise ValueError(
                f"flip is from 0 to 1 and jitter not negative; got {flip} and {jitter}"
            )
        self.flip = flip
        self._resize = RandomShortestSize(list(short_sides), max_side, antialias=True)
        self._jitter = ColorJitter(jitter, jitter, jitter) if jitter else None

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        image, target = _together(self._resize, image, target)
        if torch.rand(()).item() < self.flip:
            image, target = _together(F.horizontal_flip, image, target)
            if "keypoints" in target and target["keypoints"].shape[1] == len(MIRRORED):
                target["keypoints"] = target["keypoints"][:, list(MIRRORED)]
        if self._jitter is not None:
            image = self._jitter(image)
        return image, target


class TestTransform(TrainTransform):
    """Scale to the short side alone."""

    __test__ = False  # not a test, whatever pytest thinks of the name

    def __init__(self, short_side: int = SHORT_SIDES[0], max_side: int = MAX_SIDE) -> None:
        super().__init__((short_side,), max_side, flip=0.0)


def read_image(path: Path) -> Tensor:
    """Read an image as uint8 (3, H, W), RGB, as it is stored: COCO's boxes do not turn with EXIF.

    Raises:
        ImageError: it is missing, damaged or too large.
    """
    try:
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise ImageError(
                    f"{path}: {file.width} x {file.height} is beyond the limit of "
                    f"{MAX_PIXELS:,} pixels"
                )
            return tv_tensors.Image(F.pil_to_tensor(file.convert("RGB")))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image; is the folder that of this split?") from None
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: not a readable image ({error})") from None


def read_annotations(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read COCO's annotations, or say what is wrong with them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or JSON of another kind.
    """
    if isinstance(source, Mapping):
        name, data = "these annotations", copy.deepcopy(dict(source))
    else:
        name, path = str(source), Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no annotations at {path}")
        try:
            data = json.loads(path.read_text())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON ({error}): COCO's annotations are") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in lists):
        raise ValueError(f"{name}: COCO's annotations have lists of {', '.join(lists)}")
    return data


def _check_object(one: Any, images: Mapping[int, Any], categories: Mapping[int, str]) -> None:
    """Refuse an annotation that nothing can be done with."""
    what = f"annotation {one.get('id', one) if isinstance(one, dict) else one!r}"
    if not isinstance(one, dict) or len(one.get("bbox", ())) != 4:
        raise ValueError(f"{what} has no bbox of four numbers")
    if one.get("image_id") not in images:
        raise ValueError(f"{what} is of image {one.get('image_id')}, which is not in the list")
    if one.get("category_id") not in categories:
        raise ValueError(
            f"{what} is of category {one.get('category_id')}; there are "
            f"{', '.join(map(str, sorted(categories)))}"
        )


def _masks(objects: Sequence[Mapping[str, Any]], size: tuple[int, ...]) -> Tensor:
    masks = torch.zeros(len(objects), *size, dtype=torch.uint8)
    for mask, one in zip(masks, objects, strict=True):
        shape = one["segmentation"]
        if isinstance(shape, list):
            code = rle.merge(rle.frPyObjects(shape, *size))
        else:
            code = rle.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape
        mask.copy_(torch.from_numpy(rle.decode(code)))
    return masks


def _lay(kind: Any, places: Tensor, size: tuple[int, int], **options: str) -> Tensor:
    """Say of numbers that they are places on a picture of that size."""
    return kind(places, canvas_size=size, **options)


def _together(
    transform: Callable[..., Any], image: Tensor, target: Target
) -> tuple[Tensor, Target]:
    """Apply a transform of torchvision to an image and all that lies on it."""
    height, width = image.shape[-2:]
    points = target.get("keypoints")
    lying = {name: target[name] for name in ("boxes", "masks") if name in target}
    if points is not None:
        lying["keypoints"] = _lay(tv_tensors.KeyPoints, points[..., :2], (height, width))
    if isinstance(transform, torch.nn.Module):
        image, moved = transform(image, lying)
    else:
        image, moved = transform(image), {name: transform(one) for name, one in lying.items()}
    if points is not None:
        seen = points[..., 2:]
        places = torch.as_tensor(moved["keypoints"]) * (seen > 0)  # what is not there stays at 0
        moved["keypoints"] = torch.cat([places, seen], dim=-1)
    scale = image.shape[-2] * image.shape[-1] / (height * width)
    return image, {**target, **moved, "area": target["area"] * scale}
