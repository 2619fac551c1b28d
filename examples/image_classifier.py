"""Put non-local blocks into an image classifier of timm, and train them a little.

Blocks stand after the second and third stage, the paper's res3 and res4. Prints what was inserted,
that the network's answers are the same bits as before, and the loss over a few updates on made-up
images, in which the blocks leave the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
import tyro
from torch.nn import functional as F

import nonlocalnet as nl


@dataclass(frozen=True)
class Options:
    """Options of the example."""

    model: str = "resnet26"
    """A ResNet of timm."""
    pretrained: bool = False
    """Download its ImageNet weights."""
    updates: int = 20
    """Updates, 8 images each."""
    smoke: bool = False
    """Two updates of small images, to see that it runs."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side, updates = (32, 2) if options.smoke else (128, options.updates)
    network = timm.create_model(options.model, pretrained=options.pretrained, num_classes=10)
    images = torch.randn(8, 3, side, side)
    before = network.eval()(images)

    nl.add_non_local(network, ["layer2", "layer3"], example=images[:1], subsample=2)
    print("same answers as before:", torch.equal(network.eval()(images), before))

    # made-up classes: where the bright spot is
    labels = torch.arange(8) % 4
    for image, label in zip(images, labels, strict=True):
        image[:, (label // 2) * side // 2 :, (label % 2) * side // 2 :][:, :16, :16] += 4
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    network.train()
    for update in range(updates):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 5 == 0 or update == updates - 1:
            gamma = network.layer3.non_local.norm.weight.abs().mean()
            print(f"update {update}: loss {loss:.3f}, mean |gamma| of a block {gamma:.2g}")


if __name__ == "__main__":
    main(tyro.cli(Options))
