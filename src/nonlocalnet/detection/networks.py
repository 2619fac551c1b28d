"""The paper's networks for COCO: torchvision's Mask R-CNN and Keypoint R-CNN with blocks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from nonlocalnet.blocks.insertion import add_non_local
from nonlocalnet.blocks.norm import BlockNorm
from nonlocalnet.detection.rows import BACKBONES, STAGES
from nonlocalnet.errors import check_choice
from nonlocalnet.ops import Pairwise

if TYPE_CHECKING:
    from torchvision.models.detection import KeypointRCNN, MaskRCNN

HeadPlace = Literal["after_relu", "before_relu"]
BackboneNorm = Literal["frozen", "batch", "sync"]

COCO_CLASSES, PERSON_CLASSES = 91, 2  # with the background, as torchvision's weights have them


def build(
    name: str,
    fields: Mapping[str, Any],
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

    One non-local block is inserted before the last residual block of res4 (`_nl1`, `_nl5`), and one
    after every second of the 8 convolutions in the keypoint head (`_nl4`, `_nl5`). Blocks are the
    identity until they are trained, so torchvision's released weights load (`load_weights`) and
    give the same detections.

    Args:
        name: of the table; X152 is the 32x8d ResNeXt.
        fields: of its row: kind, backbone, backbone_blocks, head_blocks.
        num_classes: number of classes with the background; by default 91 (COCO), for keypoints 2.
        norm: norms of the backbone: "frozen", "batch" or "sync" (over processes).
        norm_eps: epsilon of the frozen norms. torchvision's COCO_V1 weights need 0.
        trainable_stages: number of the backbone's five stages that are trained, from the last.
        pairwise: pairwise function of all blocks.
        subsample, block_norm: of the backbone's block, as in `NonLocalBlock`.
        head_subsample, head_inner_channels, head_place: of the head's blocks. Inner channels are
            half of 512 by default; the place is after or before the second convolution's ReLU.
        options: options of torchvision's `MaskRCNN` or `KeypointRCNN`: min_size,
            box_score_thresh, ...

    Returns:
        torchvision's own class; `.config` holds the arguments that build it again.

    Raises:
        ValueError: an unknown name, choice or option.

    Source: paper, section 5.2 and Tables 5 and 6. Our defaults where the paper says nothing: norms
    are frozen, as in torchvision's detectors; blocks then have no norm and W_z starts at zero, as
    in the official code's frozen networks. The backbone's keys are subsampled in space (section
    3.3). The head's 14 x 14 positions are not: pooling 196 keys saves nothing. Blocks in the head
    come after the ReLU, as in the backbone, where a block follows a whole residual block.

    >>> from nonlocalnet import create_model
    >>> net = create_model("mask_rcnn_r50_fpn_nl1", num_classes=5, min_size=64)
    >>> net.backbone.body.layer3[4].non_local.subsample
    (2, 2)
    """
    check_choice("norm", norm, get_args(BackboneNorm))
    check_choice("head_place", head_place, get_args(HeadPlace))
    kind = fields["kind"]
    if num_classes is None:
        num_classes = COCO_CLASSES if kind == "mask" else PERSON_CLASSES
    if num_classes < 2:
        raise ValueError(f"num_classes counts the background too: at least 2; got {num_classes}")
    if not 0 <= trainable_stages <= STAGES:
        raise ValueError(f"trainable_stages must be from 0 to {STAGES}; got {trainable_stages}")
    of = BACKBONES[fields["backbone"]]
    from nonlocalnet.detection import rcnn

    known = [*inspect.signature(build).parameters, *rcnn.list_options(kind)]
    for option in options:
        check_choice(
            "option", option, [name for name in known if name not in ("name", "fields", "options")]
        )
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
        kind,
        backbone,
        num_classes,
        box_width=of.box_head,
        head_width=of.mask_head if kind == "mask" else of.keypoint_head,
        **options,
    )
    if fields["backbone_blocks"]:
        add_non_local(
            backbone.body,
            of.place,
            example=torch.zeros(1, 3, 64, 64),
            verbose=False,
            pairwise=pairwise,
            subsample=subsample,
            norm=block_norm,
        )
    if fields["head_blocks"]:
        head = network.roi_heads.keypoint_head
        second = [
            4 * k + (3 if head_place == "after_relu" else 2) for k in range(fields["head_blocks"])
        ]
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
