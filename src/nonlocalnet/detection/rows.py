"""Names of the detectors: the paper's networks for COCO and a tiny one for tests. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nonlocalnet.networks.families import Family, Row

if TYPE_CHECKING:
    from nonlocalnet.training.config import TrainConfig

DetectorKind = Literal["mask", "keypoint"]

STAGES = 5  # of a backbone, with conv1


@dataclass(frozen=True)
class Backbone:
    """A ResNet, the channels of the FPN and the heads on it, and where res4 takes its block."""

    depths: tuple[int, int, int, int]
    groups: int = 1
    width_per_group: int = 64
    slim: bool = False  # stages of 64 to 512 channels, not of 256 to 2048
    fpn: int = 256
    box_head: int | None = None  # None is torchvision's: 1024, and 256 or 512
    mask_head: int | None = None
    keypoint_head: int | None = None

    @property
    def place(self) -> str:
        """Where the block stands: right before the last residual block of res4."""
        return f"layer3.{self.depths[2] - 2}"


BACKBONES = {
    "r50": Backbone((3, 4, 6, 3)),
    "r101": Backbone((3, 4, 23, 3)),
    "x152": Backbone((3, 8, 36, 3), groups=32, width_per_group=8),
    # for tests and small data
    "tiny": Backbone(
        (1, 1, 2, 1),
        width_per_group=16,
        slim=True,
        fpn=64,
        box_head=256,
        mask_head=64,
        keypoint_head=64,
    ),
}

DETECTION = Family(
    "detection",
    "images",
    {
        "arguments": ".detection.rows:train_arguments",
        "build": ".detection.networks:build",
        "cost": ".detection.cost:compute_image",
        "memory_format": ".detection.rcnn:use_fast_layout",
        "look": ".detection.look:look_at",
        "test": ".detection.testing:test_images",
        "task": ".detection.task:make_task",
        "fields": ".detection.weights:fields",
        "weights": ".detection.weights",
    },
    costs="image of 800 x 1344, 1000 proposals, 100 objects, COCO's classes; ratio to no blocks",
    attribute="roi_heads",
)


def train_arguments(config: TrainConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Add the arguments of a detector that follow from other options of its training."""
    options["min_size"] = config.test_side
    if config.init == "none":
        options["trainable_stages"] = STAGES  # no stage is pretrained
    return options


def _row(
    kind: DetectorKind, backbone: str, suffix: str = "", *, blocks: int = 0, head_blocks: int = 0
) -> tuple[str, Row]:
    base = f"{kind}_rcnn_{backbone}_fpn"
    fields = {
        "kind": kind,
        "backbone": backbone,
        "backbone_blocks": blocks,
        "head_blocks": head_blocks,
    }
    return base + suffix, Row(DETECTION, fields, base)


def _rows() -> Iterator[tuple[str, Row]]:
    for backbone in BACKBONES:
        yield _row("mask", backbone)
        yield _row("mask", backbone, "_nl1", blocks=1)
    for backbone in ("r50", "r101", "tiny"):
        yield _row("keypoint", backbone)
        yield _row("keypoint", backbone, "_nl4", head_blocks=4)
        yield _row("keypoint", backbone, "_nl5", blocks=1, head_blocks=4)


ROWS = dict(_rows())
