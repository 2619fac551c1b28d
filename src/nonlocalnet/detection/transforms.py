"""Resize, mirror and color-jitter images together with boxes, masks and keypoints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from nonlocalnet.detection.annotations import PERSON_KEYPOINTS

SHORT_SIDE, MAX_SIZE = 800, 1333
SHORT_SIDES = (640, 672, 704, 736, 768, 800)  # several scales, for longer training

SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}


def mirrored(names: Sequence[str]) -> tuple[int, ...]:
    """Find the keypoint that takes the place of each one in a mirrored image.

    Sides are recognized by the words left and right, or l and r, in the names. A keypoint without
    a counterpart keeps its place.

    >>> mirrored(["nose", "left_eye", "right_eye", "tail"])
    (0, 2, 1, 3)
    """
    words = [re.findall(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+", name) for name in names]
    plain = [tuple(word.lower() for word in of) for of in words]
    place = {of: i for i, of in enumerate(plain)}
    return tuple(
        place.get(tuple(SIDES.get(word, word) for word in of), i) for i, of in enumerate(plain)
    )


class RandomMirror(nn.Module):
    """Mirror image, boxes, masks and keypoints at random; left keypoints become right ones.

    A keypoint is a pixel: x becomes W - 1 - x, while a box's border x becomes W - x.

    Args:
        p: probability of mirroring.
        keypoints: names of the keypoints, which tell left from right (`mirrored`).

    Raises:
        ValueError: `p` is not a probability; or an object has another number of keypoints.
    """

    def __init__(self, p: float = 0.5, keypoints: Sequence[str] = PERSON_KEYPOINTS) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"flip is a probability between 0 and 1, got {p}")
        self.p, self.places = p, mirrored(keypoints)

    def forward(self, image: tv_tensors.Image, target: dict[str, Any]) -> tuple[Any, Any]:
        if torch.rand(()).item() >= self.p:
            return image, target
        image, target = v2.RandomHorizontalFlip(1)(image, target)
        if "keypoints" in target:
            points = target["keypoints"]
            if points.shape[1] != len(self.places):
                raise ValueError(
                    f"an object has {points.shape[1]} keypoints, and {len(self.places)} names were "
                    "given: pass the data set's keypoint_names as keypoints"
                )
            swapped = tv_tensors.wrap(points[:, self.places], like=points)
            target |= {"keypoints": swapped, "visibility": target["visibility"][:, self.places]}
        return image, target


class ImageTrainTransform(v2.Compose):
    """Augment for training: mirror, resize to a random short side of a list, jitter colors.

    Mirroring comes first, so that a keypoint, which is a pixel, keeps its half pixel at any scale.
    Random numbers come from torch's global generator. Detectron, which the paper uses, has a short
    side of 800, a longest side of 1333 and a flip of 0.5.

    Args:
        short_side: short side in pixels, or several to choose from; None leaves the size as it is.
            `SHORT_SIDES` is the usual list of several scales.
        max_size: largest long side; the short side is then smaller.
        flip: probability of mirroring.
        jitter: largest relative change of brightness, contrast and saturation; hue is kept.
        keypoints: names of the keypoints, as in `RandomMirror`.

    Raises:
        ValueError: there is no short side, one is not below `max_size`, or `flip` or `jitter` are
            not in [0, 1].

    >>> image = tv_tensors.Image(torch.zeros(3, 30, 40, dtype=torch.uint8))
    >>> ImageTrainTransform(short_side=60, max_size=90)(image, {})[0].shape
    torch.Size([3, 60, 80])
    """

    def __init__(
        self,
        short_side: int | Sequence[int] | None = SHORT_SIDE,
        max_size: int = MAX_SIZE,
        flip: float = 0.5,
        jitter: float = 0.0,
        keypoints: Sequence[str] = PERSON_KEYPOINTS,
    ) -> None:
        if not 0 <= jitter <= 1:
            raise ValueError(f"jitter is a share between 0 and 1, got {jitter}")
        steps: list[nn.Module] = [RandomMirror(flip, keypoints)]
        if short_side is not None:
            steps.append(_resize(short_side, max_size))
        if jitter:
            steps.append(v2.ColorJitter(jitter, jitter, jitter))
        super().__init__(steps)


class ImageTestTransform(v2.Compose):
    """Resize for testing to a short side, or less if the long side would exceed `max_size`.

    Raises:
        ValueError: the short side is not below `max_size`.
    """

    def __init__(self, short_side: int = SHORT_SIDE, max_size: int = MAX_SIZE) -> None:
        super().__init__([_resize(short_side, max_size)])


def _resize(short_side: int | Sequence[int], max_size: int) -> v2.Transform:
    sides = [short_side] if isinstance(short_side, int) else list(short_side)
    if not sides or not all(1 <= side < max_size for side in sides):
        raise ValueError(
            f"short sides must be pixels below max_size, got {short_side} and {max_size}"
        )
    return v2.RandomChoice([v2.Resize(side, max_size=max_size) for side in sides])
