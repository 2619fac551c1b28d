"""Train a detector on annotated images: boxes, with masks or keypoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonlocalnet.checkpoints.load import Pretrained
from nonlocalnet.detection.annotations import PERSON_KEYPOINTS, CocoError, identify_annotations
from nonlocalnet.detection.coco_eval import CocoEvaluator, ScoreKind
from nonlocalnet.detection.dataset import NOTHING, CocoDataset
from nonlocalnet.detection.evaluation import evaluate_detector
from nonlocalnet.detection.find import find_coco
from nonlocalnet.detection.transforms import ImageTrainTransform, mirrored
from nonlocalnet.errors import option
from nonlocalnet.networks.registry import Network, create_model, find_row
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.tasks import Task, ToDevice

SCALE_STEP = 32  # pixels between the short sides that images are resized to in training
SHARED = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")


def make_task(config: TrainConfig) -> Detection:
    """Read the training and the validation set; the network resizes their images itself.

    Raises:
        CocoError: as `find_coco` and `CocoDataset`.
    """
    keypoints = find_row(config.model).fields["kind"] == "keypoint"
    kind = "person_keypoints" if keypoints else "instances"
    train, val = find_coco(config.data, kind, val=config.val, root=config.root)
    training = CocoDataset(
        train.images,
        train.annotations,
        keypoints=keypoints,
        masks=not keypoints,
        max_bad=config.max_bad,
    )
    training.transform = ImageTrainTransform(
        None, flip=config.flip, jitter=config.jitter, keypoints=training.keypoint_names
    )
    if val is None:
        return Detection(training, None)
    validation = CocoDataset(val.images, val.annotations, masks=False, training=False)
    return Detection(training, validation)


class Detection(Task[CocoDataset]):
    """Train with the sum of torchvision's R-CNN losses; validate with COCO's scores.

    Args:
        training: training set.
        validation: validation set, or None.
    """

    unit = items = "images"
    multi_label = False

    def __init__(self, training: CocoDataset, validation: CocoDataset | None) -> None:
        self.training, self.validation = training, validation
        self.classes = training.classes
        self.fingerprint = identify_annotations(training.annotations)
        second: ScoreKind = "keypoints" if training.keypoints else "segm"
        self.kinds: tuple[ScoreKind, ScoreKind] = ("bbox", second)
        count = len(training.keypoint_names)
        if count not in (0, len(PERSON_KEYPOINTS)):
            self.options = {"num_keypoints": count}
        self.logged = (*SHARED, "loss_keypoint" if training.keypoints else "loss_mask")

    def __str__(self) -> str:
        named = sum(name != NOTHING for name in self.classes[1:])
        count, there = len(self.training), len(self.training.entries)
        of = "" if count == there else f" of {there} (the others have nothing to learn from)"
        return f"{count} training images{of}, {named} classes{self._about_keypoints()}"

    def make_network(self, config: TrainConfig, start: Pretrained) -> Network:
        """Create the network for the data, with the normalization of `start`.

        In training, each image is resized to one of several sizes; `.config`, which is saved, keeps
        the size for testing.

        Raises:
            ValueError: an option of the network contradicts the data.
        """
        colors: dict[str, Any] = {"image_mean": list(start.mean), "image_std": list(start.std)}
        options = colors | config.model_options()
        for name, value in self.options.items():
            if options.setdefault(name, value) != value:
                given = option("set", f"{name}={options[name]}")
                raise ValueError(f"{given} does not fit the data, which have {value}")
        network = create_model(config.model, num_classes=len(self.classes), **options)
        low, high = config.short_side
        network.transform.min_size = (*range(low, high, SCALE_STEP), high)
        return network

    def input_of(self, network: Network, start: Pretrained) -> Pretrained:
        """Return the normalization of the network's input; options may have changed it."""
        mean, std = tuple(network.transform.image_mean), tuple(network.transform.image_std)
        return dataclasses.replace(start, mean=mean, std=std)

    def _about_keypoints(self) -> str:
        """Describe keypoints that are not COCO's."""
        names = self.training.keypoint_names
        if names in ((), PERSON_KEYPOINTS):
            return ""
        pairs = sum(place != i for i, place in enumerate(mirrored(names))) // 2
        told = f"{pairs} pairs of them are swapped" if pairs else "none is swapped"
        return f", {len(names)} keypoints ({told} in mirrored images, by left and right in names)"

    def check_readable(self) -> None:
        super().check_readable()
        if self.validation is None:
            return
        evaluator = CocoEvaluator(self.validation.annotations, self.kinds)  # or it cannot be scored
        ours, theirs = self.classes, self.validation.classes
        strange = [name for i, name in enumerate(theirs) if name not in (NOTHING, *ours[i : i + 1])]
        if strange:
            raise CocoError(
                self.validation.annotations,
                f"has the category {strange[0]!r}, and {self.training.annotations} lacks it or has "
                "it with another id: give both files the same categories",
            )
        if self.training.keypoints and evaluator.keypoints != self.training.keypoint_names:
            raise CocoError(
                self.validation.annotations,
                f"names other keypoints than {self.training.annotations}: give both the same",
            )

    def identify(self, data: CocoDataset) -> str:
        return identify_annotations(data.annotations)

    def collate(self, items: list[Any]) -> Any:
        # arrays: each tensor that is sent between processes holds a file open
        used = ("boxes", "labels", "masks", "keypoints")
        return [
            (
                np.asarray(image),
                {name: np.asarray(target[name]) for name in used if name in target},
            )
            for image, target in items
        ]

    def inputs(
        self, batch: Any, to_device: ToDevice
    ) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        images = [to_device(torch.from_numpy(image)).float() / 255 for image, _ in batch]
        targets = [
            {name: to_device(torch.from_numpy(value)) for name, value in target.items()}
            for _, target in batch
        ]
        return images, targets

    def loss(
        self, forward: Callable[..., dict[str, Tensor]], batch: Any, to_device: ToDevice
    ) -> tuple[Tensor, list[float]]:
        losses = {
            name: loss.float() for name, loss in forward(*self.inputs(batch, to_device)).items()
        }
        total = torch.stack(list(losses.values())).sum()
        return total, [losses[name].item() for name in self.logged]

    def format_logged(self, values: list[float]) -> list[str]:
        return [
            f"{name.removeprefix('loss_')} {value:.2f}"
            for name, value in zip(self.logged, values, strict=True)
            if "rpn" not in name
        ]

    def validate(
        self,
        network: Network,
        *,
        workers: int,
        dtype: torch.dtype | None,
        on_item: Callable[[int], None],
    ) -> tuple[dict[str, float], int]:
        assert self.validation is not None
        evaluator = CocoEvaluator(self.validation.annotations, self.kinds)
        errors = evaluate_detector(
            network, self.validation, evaluator, workers=workers, dtype=dtype, on_image=on_item
        )
        return flat(evaluator.scores()), len(errors)

    def format_metrics(self, scores: dict[str, float]) -> str:
        return "  ".join(
            f"{kind} {scores[f'{kind}_AP']:.1f} (AP50 {scores[f'{kind}_AP50']:.1f})"
            for kind in self.kinds
        )


def flat(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """Put scores of several kinds in one dictionary.

    >>> flat({"bbox": {"AP": 38.0}, "segm": {"AP": 34.6}})
    {'bbox_AP': 38.0, 'segm_AP': 34.6}
    """
    return {f"{kind}_{name}": value for kind, of in scores.items() for name, value in of.items()}
