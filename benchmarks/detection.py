"""What non-local blocks cost a detector, at the size that COCO is trained at: 800 x 1333.

    python benchmarks/detection.py --out benchmarks/results/detection_cpu.json

- network: the whole detector on one image of 800 x 1333: inference with 100 objects (every score is
  good enough), and a training step with 10 (losses, backward; norms frozen, three stages learn).
- backbone: ResNet with its FPN on one image of 800 x 1344 (1333, padded to whole strides), without
  and with the block before res4's last residual block; inference, and forward, sum, backward.
- head: the keypoint head of 8 convolutions on 16 regions of 14 x 14, without and with four blocks.
- block: the backbone's block alone, without subsampling, as textbook and as `auto` chooses.

Parameters and multiply-adds are of the whole part, counted on meta tensors (of a network as
`nonlocalnet models` does, with 1000 proposals and 100 objects). Times are
the best of several rounds in which the rivals take turns, one thread; memory is each one's peak in
a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import Bottleneck

import nonlocalnet as nl
from measure import in_a_process, machine, milliseconds, peak_mib
from nonlocalnet.evaluation.cost import cost as cost_of_network
from nonlocalnet.networks import create_model

IMAGE = 1, 3, 800, 1344
OBJECTS = 10
REGIONS = 16, 256, 14, 14
RES4 = 1, 1024, 50, 84
KEYPOINTS = "keypoint_rcnn_r101_fpn"
PAIRS = {
    "network r50": ("mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn_nl1"),
    "network r101": ("mask_rcnn_r101_fpn", "mask_rcnn_r101_fpn_nl1"),
    "network x152": ("mask_rcnn_x152_fpn", "mask_rcnn_x152_fpn_nl1"),
    "network keypoints r101": (KEYPOINTS, f"{KEYPOINTS}_nl4", f"{KEYPOINTS}_nl5"),
    "backbone r50": ("mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn_nl1"),
    "head": ("keypoint_rcnn_r50_fpn", "keypoint_rcnn_r50_fpn_nl4"),
    "block": ("textbook", "auto"),
}


@dataclass(frozen=True)
class Options:
    pairs: tuple[str, ...] = tuple(PAIRS)
    rounds: int = 3
    out: Path | None = None
    """The results, JSON; rows of other pairs there are kept."""
    memory_of: str = ""


def part_of(pair: str, name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The part of a network that is measured, and the size of its input."""
    torch.manual_seed(0)
    if pair == "block":
        return nl.NonLocalBlock(1024, 2, norm=None, implementation=name), RES4
    network = create_model(name)
    if pair == "head":
        return network.roi_heads.keypoint_head, REGIONS
    return network.backbone, IMAGE


def targets(keypoints: bool) -> list[dict[str, torch.Tensor]]:
    """Ten objects side by side, each a box that is full."""
    left = 130.0 * torch.arange(OBJECTS)
    boxes = torch.stack([left, left + 100, left + 120, left + 600], 1)
    found = {"boxes": boxes, "labels": torch.ones(OBJECTS, dtype=torch.int64)}
    if keypoints:
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        found["keypoints"] = torch.cat([centers, torch.ones(OBJECTS, 1)], 1)[:, None].repeat(
            1, 17, 1
        )
    else:
        found["masks"] = torch.zeros(OBJECTS, 800, 1333, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(found["masks"], boxes.int(), strict=True):
            mask[y1:y2, x1:x2] = 1
    return [found]


def work_of_network(name: str, step: str) -> Callable[[], None]:
    torch.manual_seed(0)
    network, x = create_model(name, box_score_thresh=0.0), torch.rand(3, 800, 1333)
    for module in network.backbone.modules():
        if isinstance(module, Bottleneck):
            module.bn3.weight.fill_(0.1)  # a hundred random layers else grow beyond all numbers
    objects = targets(name.startswith("keypoint"))

    def inference() -> None:
        with torch.no_grad():
            (found,) = network.eval()([x])
        assert len(found["boxes"]) == 100

    def training() -> None:
        torch.manual_seed(1)  # of the proposals
        network.zero_grad()
        sum(network.train()([x], objects).values()).backward()

    return inference if step == "inference" else training


def work(pair: str, name: str, step: str) -> Callable[[], None]:
    if pair.startswith("network"):
        return work_of_network(name, step)
    part, size = part_of(pair, name)
    x = torch.randn(size, requires_grad=step == "training" and pair in ("head", "block"))

    def inference() -> None:
        with torch.no_grad():
            part.eval()(x)

    def training() -> None:
        part.zero_grad()
        y = part.train()(x)
        maps = y.values() if isinstance(y, dict) else [y]
        sum(one.sum() for one in maps).backward()

    return inference if step == "inference" else training


def cost(pair: str, name: str) -> tuple[int, int]:
    """Parameters, and multiply-adds of a forward pass."""
    if pair.startswith("network"):
        whole = cost_of_network(name)
        return whole.parameters, whole.multiply_adds
    part, size = part_of(pair, name)
    part = part.to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part(torch.empty(size, device="meta"))
    return sum(p.numel() for p in part.parameters()), counter.get_total_flops() // 2


def main(options: Options) -> int:
    torch.set_num_threads(1)
    if options.memory_of:
        case = json.loads(options.memory_of)
        print(peak_mib(work(**case), "cpu"))
        return 0
    rows = []
    if options.out is not None and options.out.exists():
        found = json.loads(options.out.read_text())["rows"]
        rows = [row for row in found if row["pair"] not in options.pairs]
    for pair in options.pairs:
        names = PAIRS[pair]
        costs = {name: cost(pair, name) for name in names}
        for step in ("inference", "training"):
            functions = {name: work(pair, name, step) for name in names}
            times = milliseconds(functions, "cpu", least=options.rounds, slow_ms=1e9)
            for name in names:
                case = {"pair": pair, "name": name, "step": step}
                row = {
                    **case,
                    "parameters": costs[name][0],
                    "multiply_adds": costs[name][1],
                    "ms": times[name],
                    "mib": in_a_process(__file__, case),
                }
                rows.append(row)
                print(row, flush=True)
            if options.out is not None:
                text = json.dumps({"machine": machine("cpu"), "rows": rows}, indent=2)
                options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
