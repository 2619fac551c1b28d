"""A network whose attention is known: every position looks at the one place that is brightest."""

import torch
from torch import nn

import nonlocalnet as nl


def look_at_the_largest(block):
    """Let every position of a block of one channel attend to where that is largest."""
    nn.init.zeros_(block.theta.weight)
    nn.init.ones_(block.theta.bias)
    nn.init.constant_(block.phi.weight, 1000.0)
    nn.init.zeros_(block.phi.bias)


class BrightestPlace(nn.Module):
    """A stem of stride (1, 2, 2) without padding, and a block whose scores are the keys' red.

    θ is one everywhere (by its bias), φ a thousand times the red: a softmax of the pooled map.
    """

    def __init__(self, pairwise="embedded_gaussian"):
        super().__init__()
        self.stem = nn.Conv3d(3, 1, (1, 3, 3), stride=(1, 2, 2), bias=False)
        self.stem.weight.data.zero_()
        self.stem.weight.data[0, 0, 0, 1, 1] = 1  # the middle pixel's red
        scale = 1.0 if pairwise == "embedded_gaussian" else None
        self.block = nl.NonLocalBlock(
            1, 3, pairwise, inner_channels=1, subsample=(1, 2, 2), scale=scale
        )
        look_at_the_largest(self.block)

    def forward(self, x):
        return self.block(self.stem(x))


FRAMES, HEIGHT, WIDTH = 3, 19, 25
# the stem has 9 x 12 positions, centerd on pixels 1, 3, 5, ...; keys are 2 x 2 of them, 4 x 6


def clip_with_a_pixel(t, y, x):
    """Black, with one red pixel; uint8, so that it is normalized with equal means."""
    clip = torch.zeros(3, FRAMES, HEIGHT, WIDTH, dtype=torch.uint8)
    clip[0, t, y, x] = 255
    return clip


# key (row 2, column 3): positions 4 and 5, 6 and 7; their pixels 9 and 11, 13 and 15, in edges:
# centers 9.5 and 11.5, the cell from 8.5 to 12.5; columns from 12.5 to 16.5
PIXEL = (1, 11, 13)
CELL = ((8.5, 12.5), (12.5, 16.5))
CENTER = (1.5, 10.5, 14.5)
