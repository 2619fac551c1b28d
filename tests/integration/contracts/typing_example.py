"""Every public name as a typed project uses it. test_typing.py has ty check this file."""

from pathlib import Path
from typing import Any, assert_type

import torch
from torch import Tensor, nn
from torch import distributed as dist

import nonlocalnet as nl
from nonlocalnet.acceleration.report import Report
from nonlocalnet.blocks.insertion import Inserted
from nonlocalnet.checkpoints.report import LoadReport
from nonlocalnet.data.video.reader import VideoError
from nonlocalnet.deployment.export import Exported
from nonlocalnet.detection.detect import Detections
from nonlocalnet.inspection.look import Look
from nonlocalnet.inspection.propagation import Propagation
from nonlocalnet.networks.video_resnet import VideoResNet
from nonlocalnet.ops.plan import Plan


def compute(theta: Tensor, phi: Tensor, g: Tensor, mask: Tensor | None) -> None:
    assert_type(nl.non_local(theta, phi, g, "dot_product", implementation="linear"), Tensor)
    assert_type(nl.non_local(theta, phi, g, group=dist.group.WORLD), Tensor)
    assert_type(nl.affinity(theta, phi, queries=torch.tensor([0]), mask=mask), Tensor)
    assert_type(nl.explain(theta, phi, g, memory_budget=2**20), Plan)


def insert(network: nn.Module) -> None:
    assert_type(nl.add_non_local(network, ["layer2.*"], subsample=2, verbose=False), Inserted)
    assert_type(nl.remove_non_local(network), tuple[str, ...])
    assert_type(nl.accelerate(network, dry_run=True, verbose=False), Report)
    assert_type(nl.restore(network), tuple[str, ...])
    block = nl.NonLocalBlock(64, dims=3, subsample=(1, 2, 2), norm="group", extent="space")
    assert_type(block, nl.NonLocalBlock)
    assert_type(block.affinity(torch.zeros(1, 64, 4, 7, 7)), Tensor)
    assert_type(block.channels, int)
    assert_type(nl.share_frames(block, None), tuple[str, ...])
    assert_type(nl.Stream(block, window=8).reset(), None)


def use(model: VideoResNet, video: Path) -> None:
    assert_type(nl.list_models("c2d*"), list[str])
    assert_type(nl.create_model("c2d_r50", num_classes=10, clip="8x8"), Any)  # or a detector
    assert_type(nl.load(video, clip="8x8"), Any)
    assert_type(nl.load_weights(model, video, new_blocks=True), LoadReport)
    assert_type(nl.export_weights(model, video, "caffe2"), list[str])
    assert_type(nl.export(model, video, any_size=True), Exported)
    assert_type(nl.read_clip(video, model, moment="1s", crop="whole"), Tensor)
    assert_type(nl.predict(model, video, top=1, crop="whole"), list[tuple[str, float]])
    for _, found in nl.predict(model, [video, "b.mp4"], top=1):
        assert_type(found, list[tuple[str, float]] | VideoError)
    assert_type(nl.detect(model, video, score=0.5), Detections)
    assert_type(nl.look(model, video, at=(0, 1, 2)), Look)
    clip = torch.zeros(3, 8, 32, 32, dtype=torch.uint8)
    assert_type(nl.propagate(model, clip, points=[(1, 2)]), Propagation)
