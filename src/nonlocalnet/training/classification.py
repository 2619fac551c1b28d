"""Learn the labels of videos from clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.transforms import TestTransform, TrainTransform
from nonlocalnet.evaluation.multiview import evaluate
from nonlocalnet.evaluation.views import identify_videos
from nonlocalnet.networks.registry import Network
from nonlocalnet.training.losses import make_labels, mixed_loss
from nonlocalnet.training.tasks import Send, Task


class Classification(Task[VideoDataset]):
    """One label a video, or many.

    Args:
        training, validation: data sets; validation may be None.
        classes: names in label order.
        data: a hash of the training set.
        label_smoothing, mixup: of the loss, see `labels`.
    """

    unit, items = "clips", "videos"
    numbers = ("accuracy",)  # percent; not a number with many labels

    def __init__(
        self,
        training: VideoDataset,
        validation: VideoDataset | None,
        classes: list[str],
        data: str,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
    ) -> None:
        self.training, self.validation = training, validation
        self.classes, self.data, self.mixup = classes, data, mixup
        self.multi_label = training.multi_label
        self.labels = make_labels(self.multi_label, label_smoothing=label_smoothing)

    def __str__(self) -> str:
        many = ", many labels a video" if self.multi_label else ""
        return f"{len(self.training)} training videos, {len(self.classes)} classes{many}"

    def normalize_as(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Normalize the clips as those that the weights to start from were trained on."""
        for dataset in (self.training, self.validation):
            if dataset is not None:
                assert isinstance(dataset.transform, TrainTransform | TestTransform)
                dataset.transform.mean, dataset.transform.std = mean, std

    def identify(self, data: VideoDataset) -> str:
        return identify_videos(data.records)

    def collate(self, items: list[Any]) -> Any:
        return default_collate(items)

    def inputs(self, batch: Any, send: Send) -> tuple[Tensor]:
        return (self.training.normalize(send(batch[0])),)

    def loss(
        self, forward: Callable[..., Tensor], batch: Any, send: Send
    ) -> tuple[Tensor, list[float]]:
        (clips,), target = self.inputs(batch, send), send(batch[1])

        def logits_of(clips: Tensor) -> Tensor:
            return forward(clips).float()

        loss, logits = mixed_loss(logits_of, self.labels, clips, target, self.mixup)
        if self.multi_label:
            return loss, [float("nan")]
        return loss, [100 * (logits.argmax(1) == target).float().mean().item()]

    def words(self, numbers: list[float]) -> list[str]:
        return [] if self.multi_label else [f"accuracy {numbers[0]:.1f}%"]

    def validate(
        self,
        network: Network,
        *,
        workers: int,
        dtype: torch.dtype | None,
        on_item: Callable[[int], None],
    ) -> tuple[dict[str, float], int]:
        assert self.validation is not None
        predictions = evaluate(
            network,
            self.validation,
            multi_label=self.multi_label,
            workers=workers,
            dtype=dtype,
            on_video=on_item,
        )
        scores = self.labels.score(predictions.probabilities, predictions.target)
        return scores, len(predictions.unreadable)

    def score_words(self, scores: dict[str, float]) -> str:
        return "  ".join(f"{name} {value:.1f}" for name, value in scores.items())
