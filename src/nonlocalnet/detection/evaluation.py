"""Run a detector on a data set and give its detections to an evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from nonlocalnet.detection.annotations import CocoError
from nonlocalnet.detection.coco_eval import CocoEvaluator, ScoreKind
from nonlocalnet.detection.dataset import CocoDataset
from nonlocalnet.evaluation.multiview import autocast
from nonlocalnet.runtime.distributed import PeerLeft, all_gather, rank, world_size
from nonlocalnet.runtime.workers import read_items


def kinds_of(model: nn.Module) -> tuple[ScoreKind, ...]:
    """List the kinds that a detector is scored on: boxes, and masks or keypoints."""
    heads: Any = model.roi_heads
    return ("bbox", "segm") if heads.has_mask() else ("bbox", "keypoints")


def count_keypoints(model: nn.Module) -> int:
    """Count the keypoints that a detector predicts for an object; 0 if it predicts none."""
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
    """Detect objects in every image and add them to an evaluator.

    The network takes one image at a time and resizes it itself; detections are in pixels of the
    original. Unreadable images count as images without detections. With several processes, each
    takes the images rank, rank + world size, ...; `evaluator.scores()` combines them.

    Args:
        model: it is run in evaluation mode, and its mode is restored.
        dataset: a data set with `training=False`.
        evaluator: an evaluator of the same annotations.
        workers: decoding processes for each computing process.
        dtype: dtype of autocast.
        on_image: called with the number of images that this process has done. An exception in it
            stops the test at once.

    Returns:
        One error message for each unreadable image.

    Raises:
        PeerLeft: another process left the test.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    share = _Share(dataset, range(rank(), len(dataset), world_size()))
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
    for part in all_gather(errors):
        if part is None:
            raise PeerLeft("another process left the test")
        found += part
    return found


class _Share(Dataset):
    """Part of a test set: items are (id, uint8 (3, H, W)) or (id, error message)."""

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
