"""What non-local blocks cost a detector, at the size that COCO is trained at: 800 x 1333.

    python benchmarks/detection.py --out benchmarks/results/detection_cpu.json

- backbone: ResNet with its FPN on one image of 800 x 1344 (1333, padded to whole strides), without
  and with the block before res4's last residual block; inference, and a training step (forward,
  sum, backward; norms frozen, three stages learn).
- head: the keypoint head of 8 convolutions on 16 regions of 14 x 14, without and with four blocks.
- block: the backbone's block alone, without subsampling, as textbook and as `auto` chooses.

Parameters and multiply-adds are of the whole backbone or head, counted on meta tensors. Times are
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

import nonlocalnet as nl
from measure import in_a_process, machine, milliseconds, peak_mib
from nonlocalnet.models.detection import create_detector

IMAGE = 1, 3, 800, 1344
REGIONS = 16, 256, 14, 14
RES4 = 1, 1024, 50, 84
PAIRS = {
    "backbone r50": ("mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn_nl1"),
    "backbone r101": ("mask_rcnn_r101_fpn", "mask_rcnn_r101_fpn_nl1"),
    "head": ("keypoint_rcnn_r50_fpn", "keypoint_rcnn_r50_fpn_nl4"),
    "block": ("textbook", "auto"),
}


@dataclass(frozen=True)
class Options:
    pairs: tuple[str, ...] = tuple(PAIRS)
    rounds: int = 3
    out: Path | None = None
    memory_of: str = ""


def part_of(pair: str, name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The part of a network that is measured, and the size of its input."""
    torch.manual_seed(0)
    if pair == "block":
        return nl.NonLocalBlock(1024, 2, norm=None, path=name), RES4
    network = create_detector(name)
    if pair == "head":
        return network.roi_heads.keypoint_head, REGIONS
    return network.backbone, IMAGE


def work(pair: str, name: str, step: str) -> Callable[[], None]:
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
