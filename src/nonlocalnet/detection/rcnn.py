"""Build torchvision's Mask R-CNN and Keypoint R-CNN on a ResNet with FPN of any width."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import KeypointRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from nonlocalnet.detection.rows import DetectorKind

NETWORKS: dict[DetectorKind, Any] = {"mask": MaskRCNN, "keypoint": KeypointRCNN}
LAYERS = ("layer1", "layer2", "layer3", "layer4")
POOLED = 7  # side of the regions that the box head sees
KEYPOINTS = 17


class SlimBottleneck(Bottleneck):
    """A bottleneck with a quarter of the usual output channels: 64 to 512 over the stages."""

    expansion = 1


def list_options(kind: DetectorKind) -> list[str]:
    """List the options of torchvision's network."""
    given = "backbone", "num_classes", "kwargs"
    names = [*inspect.signature(NETWORKS[kind]).parameters]
    names += inspect.signature(GeneralizedRCNNTransform).parameters
    return [name for name in dict.fromkeys(names) if name not in given]


def make_backbone(
    depths: tuple[int, ...],
    *,
    groups: int,
    width_per_group: int,
    slim: bool,
    fpn: int,
    norm: str,
    norm_eps: float,
    trainable_stages: int,
) -> BackboneWithFPN:
    """Build a ResNet with an FPN of `fpn` channels; only its last stages are trained."""

    def make_norm(channels: int) -> nn.Module:
        if norm == "frozen":
            return FrozenBatchNorm2d(channels, eps=norm_eps)
        return (nn.BatchNorm2d if norm == "batch" else nn.SyncBatchNorm)(channels)

    body = ResNet(
        SlimBottleneck if slim else Bottleneck,
        list(depths),
        groups=groups,
        width_per_group=width_per_group,
        norm_layer=make_norm,
    )
    stages = [[body.conv1, body.bn1], *([getattr(body, name)] for name in LAYERS)]
    for stage in stages[: len(stages) - trainable_stages]:
        for module in stage:
            module.requires_grad_(False)
    channels = [body.inplanes // 8 * 2**i for i in range(len(LAYERS))]
    return BackboneWithFPN(body, {name: str(i) for i, name in enumerate(LAYERS)}, channels, fpn)


def make_network(
    kind: DetectorKind,
    backbone: BackboneWithFPN,
    num_classes: int,
    *,
    box_width: int | None,
    head_width: int | None,
    **options: Any,
) -> Any:
    """Build torchvision's network with a box head and a mask or keypoint head of given widths."""
    if box_width is None or head_width is None:
        return NETWORKS[kind](backbone, num_classes, **options)
    fpn = backbone.out_channels
    heads = {
        "box_head": TwoMLPHead(fpn * POOLED**2, box_width),
        "box_predictor": FastRCNNPredictor(box_width, num_classes),
    }
    if kind == "mask":
        heads["mask_head"] = MaskRCNNHeads(fpn, [head_width] * 4, dilation=1)
        heads["mask_predictor"] = MaskRCNNPredictor(head_width, head_width, num_classes)
    else:
        keypoints = options.pop("num_keypoints", None) or KEYPOINTS
        heads["keypoint_head"] = KeypointRCNNHeads(fpn, [head_width] * 8)
        heads["keypoint_predictor"] = KeypointRCNNPredictor(head_width, keypoints)
    return NETWORKS[kind](backbone, **heads | options)


def use_fast_layout(network: Any) -> None:
    """Lay kernels of the backbone out as convolutions are fastest; heads need the usual layout."""
    network.backbone.to(memory_format=torch.channels_last)
