"""torchvision's image classifiers and detectors."""

from __future__ import annotations

from collections.abc import Iterator

from nonlocalnet.checkpoints.releases.base import Release


def rows() -> Iterator[Release]:
    """List them."""
    yield from _classifiers()
    yield from _detectors()


def _classifiers() -> Iterator[Release]:
    # torchvision 0.26, models/resnet.py; its README leaves the license of weights to their data
    for depth, sha256, top1, top5 in (
        (50, "0676ba61", 76.130, 92.862),
        (101, "63fe2227", 77.374, 93.546),
    ):
        yield Release(
            name=f"resnet{depth}_imagenet",
            url=f"https://download.pytorch.org/models/resnet{depth}-{sha256}.pth",
            project="torchvision",
            license="BSD-3-Clause (code)",
            model=f"c2d_r{depth}",
            clip=None,
            top1=top1,
            top5=top5,
            figure=f"torchvision, ResNet{depth}_Weights.IMAGENET1K_V1, a center crop",
            dataset="ImageNet-1k",
            sha256=sha256,
        )


def _detectors() -> Iterator[Release]:
    # torchvision 0.26, models/detection/{mask,keypoint}_rcnn.py
    for name, model, stem, enum, reported in (
        (
            "maskrcnn_resnet50_fpn",
            "mask_rcnn_r50_fpn",
            "maskrcnn_resnet50_fpn_coco-bf2d0c1e",
            "MaskRCNN_ResNet50_FPN_Weights.COCO_V1",
            {"bbox_AP": 37.9, "segm_AP": 34.6},
        ),
        (
            "keypointrcnn_resnet50_fpn",
            "keypoint_rcnn_r50_fpn",
            "keypointrcnn_resnet50_fpn_coco-fc266e95",
            "KeypointRCNN_ResNet50_FPN_Weights.COCO_V1",
            {"bbox_AP": 54.6, "keypoints_AP": 65.0},
        ),
    ):
        yield Release(
            name=f"{name}_coco",
            url=f"https://download.pytorch.org/models/{stem}.pth",
            project="torchvision",
            license="BSD-3-Clause (code)",
            model=model,
            clip=None,
            top1=None,
            top5=None,
            figure=f"torchvision, {enum}, COCO val2017",
            dataset="COCO 2017",
            sha256=stem.rpartition("-")[2],
            scores=reported,
        )
