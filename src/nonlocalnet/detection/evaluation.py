"""Test a detector on images with annotations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from nonlocalnet.detection.annotations import CocoError
from nonlocalnet.detection.dataset import CocoDataset
from nonlocalnet.detection.scores import CocoEvaluator, ScoreKind
from nonlocalnet.evaluation.multiview import PeerLeft, autocast
from nonlocalnet.runtime.distributed import gather, rank, size
from nonlocalnet.runtime.workers import read_items


def kinds_of(model: nn.Module) -> tuple[ScoreKind, ...]:
    """Tell what a detector is scored on: boxes, and masks or keypoints."""
    heads: Any = model.roi_heads
    return ("bbox", "segm") if heads.has_mask() else ("bbox", "keypoints")


def count_keypoints(model: nn.Module) -> int:
    """Count the keypoints that a detector gives of an object; 0 if it gives none."""
    heads: Any = model.roi_heads
    return heads.keypoint_predictor.out_channels if heads.has_keypoint() else 0


@torch.no_grad()
def evaluate_detector(
    model: nn.Module,
    dataset: CocoDataset,
    evaluator: CocoEvaluator,
    *,
    workers: int = 0,
    dtype: torch.dtype | None = None,
    on_image: Callable[[int], None] = lambda images: None,
) -> list[str]:
    """Find the objects of every image, and give them to an evaluator; -> the errors of images.

    The network takes one image at a time, resizes it itself and gives detections in its pixels.
    Images that cannot be read are reported, and count as without detections. Of many processes each
    takes the images rank, rank + size, ...; `evaluator.scores()` brings them together.

    Args:
        model: the network; it is put in evaluation mode, and back afterwards.
        dataset: with `training=False`.
        evaluator: for the same annotations.
        workers: processes that decode, for each process that computes.
        dtype: of autocast.
        on_image: called with the number of images done, of this process's share. What it raises
            ends the test at once.

    Raises:
        PeerLeft: another process left the test.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    share = _Share(dataset, range(rank(), len(dataset), size()))
    errors: list[str] = []
    try:
        with read_items(share, workers=workers) as items:
            for id, image in items:
                if isinstance(image, str):
                    errors.append(image)
                else:
                    x = image.to(device).float() / 255
                    with autocast(device, dtype):
                        evaluator.add(id, model([x])[0])
                on_image(1)
    finally:
        model.train(was_training)
    found: list[str] = []
    for part in gather(errors):
        if part is None:
            raise PeerLeft("another process left the test")
        found += part
    return found


class _Share(Dataset):
    """Some images of a test set, as (id, uint8 (3, H, W)) or (id, why it cannot be read)."""

    def __init__(self, dataset: CocoDataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        index = self.indices[index]
        id = self.dataset.ids[index]
        try:
            return id, self.dataset[index][0].as_subclass(Tensor)
        except CocoError as error:
            return id, str(error)
