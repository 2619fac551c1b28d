"""Draw and write masks in COCO's format: polygons and run lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask
from numpy.typing import NDArray
from torch import Tensor

run_lengths: Any = mask  # its annotations leave out half of what it takes
Segmentation = Sequence[Sequence[float]] | Mapping[str, Any]


def draw_mask(segmentation: Segmentation, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a segmentation as COCO does: 1 where the object is, 0 elsewhere.

    Args:
        segmentation: polygons x, y, x, y ..., or run lengths, as a list or as text; one that
            `segmentation_fault` finds no fault in.
        size: (H, W) of the image.

    Returns:
        uint8 (H, W).

    >>> draw_mask([[0, 0, 2, 0, 2, 2, 0, 2]], (3, 3)).tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """
    if isinstance(segmentation, Mapping):
        if isinstance(segmentation["counts"], str):
            return run_lengths.decode(segmentation)
        return run_lengths.decode(run_lengths.frPyObjects(segmentation, *size))
    return run_lengths.decode(run_lengths.merge(run_lengths.frPyObjects(segmentation, *size)))


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """Write a mask, bool (H, W), as COCO's run lengths: {"size": [H, W], "counts": text}."""
    coded = run_lengths.encode(np.asfortranarray(mask.numpy()[..., None].astype(np.uint8)))[0]
    return {"size": list(mask.shape), "counts": coded["counts"].decode()}
