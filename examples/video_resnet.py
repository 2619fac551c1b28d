"""Put non-local blocks into a video ResNet of torchvision, and see what they cost.

Four blocks, after those of layer2 and layer3 (the paper's res3 and res4), with keys pooled by
(1, 2, 2) as there. Prints what was inserted, that the answers are the same bits as before,
and the parameters and the time of a training step with and without, measured in this run.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn
from torchvision.models.video import r3d_18

import nonlocalnet as nl


@dataclass(frozen=True)
class Options:
    """Options of the example."""

    pairwise: str = "dot_product"
    """The pairwise function of the blocks."""
    smoke: bool = False
    """A small clip, to see that it runs."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clip = torch.randn(1, 3, 4, 32, 32) if options.smoke else torch.randn(1, 3, 16, 112, 112)
    plain = r3d_18().eval()  # weights="DEFAULT" for those of Kinetics
    network = copy.deepcopy(plain)
    nl.add_non_local(
        network,
        ["layer2.*", "layer3.*"],
        example=clip,
        pairwise=options.pairwise,
        subsample=(1, 2, 2),
    )
    print("same answers as before:", torch.equal(network(clip), plain(clip)))
    for name, net in (("without blocks", plain), ("with blocks", network)):
        millions = sum(p.numel() for p in net.parameters()) / 1e6
        print(f"{name}: {millions:.2f}M parameters, {step(net, clip):.2f} s a training step")


def step(network: nn.Module, clip: Tensor) -> float:
    """The best of three training steps, in seconds of the processor."""
    network.train()
    seconds = []
    for _ in range(3):
        started = time.process_time()
        network(clip).sum().backward()
        seconds.append(time.process_time() - started)
    return min(seconds)


if __name__ == "__main__":
    main(tyro.cli(Options))
