"""Train a video network to classify clips."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from nonlocalnet.checkpoints.load import Pretrained
from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import VideoSplits, read_dataset
from nonlocalnet.data.transforms import TestTransform, TrainTransform
from nonlocalnet.errors import option, printable
from nonlocalnet.evaluation.metrics import compute_metrics
from nonlocalnet.evaluation.multiview import evaluate
from nonlocalnet.evaluation.views import identify_videos
from nonlocalnet.networks.options import read_classes
from nonlocalnet.networks.registry import Network, create_model
from nonlocalnet.runtime.log import status
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.losses import classification_loss, mixup_loss
from nonlocalnet.training.tasks import Task, ToDevice


def make_task(config: TrainConfig) -> Classification:
    """Make the training set, and the validation set with one centered view of each video.

    Raises:
        ValueError, FileNotFoundError: as `read_dataset`; more videos are missing than max_bad
            allows; one split has a class that the other lacks; labels say left and right, but clips
            would be mirrored.
    """
    names = None if config.classes is None else read_classes(config.classes)
    found = read_dataset(
        config.data, val=config.val, root=config.root, classes=names, split=config.split
    )
    _check_missing(found, config.max_bad)
    if not found.mirrored and config.flip:
        raise ValueError(
            f"the labels of {config.data} say left and right: clips cannot be mirrored; pass "
            f"{option('flip', 0)}"
        )
    for note in found.notes:
        status.print(note, soft_wrap=True)
    found.check_classes()

    def make_set(records: Any, transform: Any, **options: Any) -> VideoDataset:
        classes, clip = len(found.classes), ClipSpec.parse(config.clip)
        options |= {"multi_label": found.multi_label, "cache": config.cache}
        return VideoDataset(records, classes, clip, transform, **options)

    transform = TrainTransform(config.crop, config.short_side, config.flip)
    training = make_set(found.train, transform, train=True, max_bad=config.max_bad)
    validation = None
    if found.val is not None:
        side = config.test_side or config.short_side[0]
        validation = make_set(found.val, TestTransform(side, side), train=False)
    return Classification(
        training,
        validation,
        found.classes,
        label_smoothing=config.label_smoothing,
        mixup=config.mixup,
    )


def _check_missing(found: VideoSplits, max_bad: float) -> None:
    """Report missing videos, which are left out; refuse a data set that lacks too many."""
    if not found.missing:
        return
    listed = found.missing + len(found.train) + len(found.val or ())
    one = printable(found.absent[0])
    text = f"{found.missing} of {listed} listed videos are missing, {one} for one"
    if found.missing > max_bad * listed:
        raise ValueError(
            f"{text}: more than max_bad = {max_bad:g} allows; is {option('root')} right?"
        )
    status.print(f"{text}; they are left out", soft_wrap=True)


class Classification(Task[VideoDataset]):
    """Classification of clips, with one label per video or many.

    Args:
        training, validation: data sets; validation may be None.
        classes: names in label order.
        label_smoothing, mixup: of the loss, see `losses`.
    """

    unit, items = "clips", "videos"
    logged = ("accuracy",)  # percent; NaN with many labels

    def __init__(
        self,
        training: VideoDataset,
        validation: VideoDataset | None,
        classes: list[str],
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
    ) -> None:
        self.training, self.validation = training, validation
        self.classes, self.mixup = classes, mixup
        text = "\n".join(f"{record.name} {record.labels}" for record in training.records)
        self.fingerprint = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
        self.multi_label = training.multi_label
        self.loss_of = partial(
            classification_loss, multi_label=self.multi_label, label_smoothing=label_smoothing
        )

    def __str__(self) -> str:
        many = ", many labels a video" if self.multi_label else ""
        return f"{len(self.training)} training videos, {len(self.classes)} classes{many}"

    def make_network(self, config: TrainConfig, start: Pretrained) -> Network:
        for dataset in (self.training, self.validation):
            if dataset is not None:
                assert isinstance(dataset.transform, TrainTransform | TestTransform)
                dataset.transform.mean, dataset.transform.std = start.mean, start.std
        options: dict[str, Any] = {"clip": config.clip, "crop": config.crop}
        options |= config.model_options() | {"num_classes": len(self.classes)}
        return create_model(config.model, **options)

    def identify(self, data: VideoDataset) -> str:
        return identify_videos(data.records)

    def collate(self, items: list[Any]) -> Any:
        return default_collate(items)

    def inputs(self, batch: Any, to_device: ToDevice) -> tuple[Tensor]:
        return (self.training.normalize(to_device(batch[0])),)

    def loss(
        self, forward: Callable[..., Tensor], batch: Any, to_device: ToDevice
    ) -> tuple[Tensor, list[float]]:
        (clips,), target = self.inputs(batch, to_device), to_device(batch[1])

        def logits_of(clips: Tensor) -> Tensor:
            return forward(clips).float()

        loss, logits = mixup_loss(logits_of, self.loss_of, clips, target, self.mixup)
        if self.multi_label:
            return loss, [float("nan")]
        return loss, [100 * (logits.argmax(1) == target).float().mean().item()]

    def format_logged(self, values: list[float]) -> list[str]:
        return [] if self.multi_label else [f"accuracy {values[0]:.1f}%"]

    def validate(
        self,
        network: Network,
        *,
        workers: int,
        dtype: torch.dtype | None,
        on_item: Callable[[int], None],
    ) -> tuple[dict[str, float], int]:
        assert self.validation is not None
        found = evaluate(
            network,
            self.validation,
            multi_label=self.multi_label,
            workers=workers,
            dtype=dtype,
            on_video=on_item,
        )
        scores = compute_metrics(found.probabilities, found.target, multi_label=self.multi_label)
        return scores, len(found.unreadable)

    def format_metrics(self, scores: dict[str, float]) -> str:
        return "  ".join(f"{name} {value:.1f}" for name, value in scores.items())
