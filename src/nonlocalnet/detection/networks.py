"""The paper's networks for COCO: torchvision's Mask R-CNN and Keypoint R-CNN with blocks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from nonlocalnet.blocks.insertion import add_non_local
from nonlocalnet.blocks.norm import BlockNorm
from nonlocalnet.errors import check_choice
from nonlocalnet.ops import Pairwise

if TYPE_CHECKING:
    from torchvision.models.detection import KeypointRCNN, MaskRCNN

HeadPlace = Literal["after_relu", "before_relu"]
BackboneNorm = Literal["frozen", "batch", "sync"]

COCO_CLASSES, PERSON_CLASSES = 91, 2  # with the background, as torchvision's weights have them
STAGES = 5  # with conv1, all may learn


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


@dataclass(frozen=True)
class Row:
    """A detector of the table."""

    kind: Literal["mask", "keypoint"]
    backbone: str
    backbone_blocks: int
    head_blocks: int = 0


def _rows() -> Iterator[tuple[str, Row]]:
    for backbone in BACKBONES:
        yield f"mask_rcnn_{backbone}_fpn", Row("mask", backbone, 0)
        yield f"mask_rcnn_{backbone}_fpn_nl1", Row("mask", backbone, 1)
    for backbone in ("r50", "r101", "tiny"):
        yield f"keypoint_rcnn_{backbone}_fpn", Row("keypoint", backbone, 0)
        yield f"keypoint_rcnn_{backbone}_fpn_nl4", Row("keypoint", backbone, 0, 4)
        yield f"keypoint_rcnn_{backbone}_fpn_nl5", Row("keypoint", backbone, 1, 4)


DETECTORS = dict(_rows())


def is_detector(network: nn.Module) -> bool:
    """Tell torchvision's R-CNNs, ours among them, from other networks."""
    return hasattr(network, "roi_heads")


def list_detectors() -> list[str]:
    """List the detectors by name.

    >>> list_detectors()[:2]
    ['mask_rcnn_r50_fpn', 'mask_rcnn_r50_fpn_nl1']
    """
    return list(DETECTORS)


def create_detector(
    name: str,
    *,
    num_classes: int | None = None,
    norm: BackboneNorm = "frozen",
    norm_eps: float = 1e-5,
    trainable_stages: int = 3,
    pairwise: Pairwise = "embedded_gaussian",
    subsample: int | None = 2,
    block_norm: BlockNorm | None = None,
    head_subsample: int | None = None,
    head_inner_channels: int | None = None,
    head_place: HeadPlace = "after_relu",
    **options: Any,
) -> MaskRCNN | KeypointRCNN:
    """Build a detector of the paper's Tables 5 and 6 on torchvision's R-CNN.

    One non-local block stands right before the last residual block of res4 (`_nl1`, `_nl5`); in the
    keypoint head of 8 convolutions, one after every 2 (`_nl4`, `_nl5`). Blocks are the identity
    until they are trained, so torchvision's released weights load (`load_weights`) and give the
    same detections.

    Args:
        name: a row; `list_detectors` gives them. X152 is the 32x8d ResNeXt.
        num_classes: with the background; by default 91 of COCO, for keypoints 2.
        norm: of the backbone: "frozen", "batch" or "sync" (over processes).
        norm_eps: of the frozen norms. torchvision's COCO_V1 weights are made for 0.
        trainable_stages: how many of the backbone's five stages learn, from the last on.
        pairwise: of all blocks.
        subsample, block_norm: of the backbone's block, as in `NonLocalBlock`.
        head_subsample, head_inner_channels, head_place: of the head's blocks; inner channels by
            default half of 512; the place is after the second convolution's ReLU or before it.
        options: of torchvision's `MaskRCNN` or `KeypointRCNN`: min_size, box_score_thresh, ...

    Returns:
        torchvision's own class; `.config` holds the arguments that build it again.

    Raises:
        ValueError: an unknown name, choice or option.

    Source: paper, section 5.2 and Tables 5 and 6. What it leaves open, and our defaults: the norms
    are frozen, as the detectors of its time and torchvision's; then the block has none and W_z
    starts at zero, as the official code has it for frozen networks. The backbone's keys are
    subsampled, which the paper says it does in space (section 3.3); the head's 14 x 14 positions
    are not, as pooling 196 keys saves nothing. ReLU comes before the head's blocks, as in the
    backbone, where a block follows a whole residual block.

    >>> net = create_detector("mask_rcnn_r50_fpn_nl1", num_classes=5, min_size=64)
    >>> net.backbone.body.layer3[4].non_local.subsample
    (2, 2)
    """
    check_choice("detector", name, DETECTORS)
    check_choice("norm", norm, get_args(BackboneNorm))
    check_choice("head_place", head_place, get_args(HeadPlace))
    row = DETECTORS[name]
    if num_classes is None:
        num_classes = COCO_CLASSES if row.kind == "mask" else PERSON_CLASSES
    if num_classes < 2:
        raise ValueError(f"num_classes counts the background too: at least 2; got {num_classes}")
    if not 0 <= trainable_stages <= STAGES:
        raise ValueError(f"trainable_stages must be from 0 to {STAGES}; got {trainable_stages}")
    of = BACKBONES[row.backbone]
    from nonlocalnet.detection import rcnn

    known = [*inspect.signature(create_detector).parameters, *rcnn.list_options(row.kind)]
    for option in options:
        check_choice("option", option, [name for name in known if name not in ("name", "options")])
    sides = options.get("min_size", 800)
    sizes = [*(sides if isinstance(sides, list | tuple) else [sides]), options.get("max_size", 1)]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"min_size and max_size must be numbers of pixels; got {sizes}")
    backbone = rcnn.make_backbone(
        of.depths,
        groups=of.groups,
        width_per_group=of.width_per_group,
        slim=of.slim,
        fpn=of.fpn,
        norm=norm,
        norm_eps=norm_eps,
        trainable_stages=trainable_stages,
    )
    network = rcnn.make_network(
        row.kind,
        backbone,
        num_classes,
        box_width=of.box_head,
        head_width=of.mask_head if row.kind == "mask" else of.keypoint_head,
        **options,
    )
    if row.backbone_blocks:
        add_non_local(
            backbone.body,
            of.place,
            example=torch.zeros(1, 3, 64, 64),
            verbose=False,
            pairwise=pairwise,
            subsample=subsample,
            norm=block_norm,
        )
    if row.head_blocks:
        head = network.roi_heads.keypoint_head
        second = [4 * k + (3 if head_place == "after_relu" else 2) for k in range(row.head_blocks)]
        add_non_local(
            head,
            [str(index) for index in second],
            example=torch.zeros(1, backbone.out_channels, 14, 14),
            verbose=False,
            pairwise=pairwise,
            subsample=head_subsample,
            inner_channels=head_inner_channels,
            norm=None,
        )
    network.config = {
        "name": name,
        "num_classes": num_classes,
        "norm": norm,
        "norm_eps": norm_eps,
        "trainable_stages": trainable_stages,
        "pairwise": pairwise,
        "subsample": subsample,
        "block_norm": block_norm,
        "head_subsample": head_subsample,
        "head_inner_channels": head_inner_channels,
        "head_place": head_place,
        **options,
    }
    return network
