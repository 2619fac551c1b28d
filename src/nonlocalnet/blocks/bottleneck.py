"""Bottleneck, the residual block of the paper's video ResNets."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnet.blocks.convolution import Conv3d
from nonlocalnet.blocks.cuts import SharesFrames, Window, over_cuts
from nonlocalnet.blocks.norm import make_norm, norm_relu
from nonlocalnet.blocks.shift import temporal_shift
from nonlocalnet.options import Norm


class Bottleneck(nn.Module, SharesFrames):
    """Compute relu(shortcut(x) + c(b(a(x)))), a residual block in space and time.

    a is kx1x1, b is k'x3x3 with the stage's spatial stride and dilation, c is 1x1x1; each is
    followed by a norm, a and b by ReLU. I3D (3x1x1) sets k = 3, I3D (3x3x3) sets k' = 3, C2D
    neither.
    The shortcut is a 1x1x1 convolution and a norm where the shape changes. With `shift_div`, a
    reads temporal_shift(x), and the shortcut x itself (TSM's "blockres").

    Source: paper, table 1 and section 4; official code `bottleneck_transformation_3d`. The stage's
    stride sits in b, as in the official code and in torchvision.

    >>> import torch
    >>> Bottleneck(64, 16, 64)(torch.randn(1, 64, 2, 5, 5)).shape
    torch.Size([1, 64, 2, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        kernel_a: int = 1,
        kernel_b: int = 1,
        norm: Norm = "batch",
        shift_div: int | None = None,
    ) -> None:
        super().__init__()
        time_a, time_b = (kernel_a, 1, 1), (kernel_b, 3, 3)
        padding_a, padding_b = (kernel_a // 2, 0, 0), (kernel_b // 2, dilation, dilation)
        strides, dilations = (1, stride, stride), (1, dilation, dilation)
        self.shift_div = shift_div
        self.conv_a = Conv3d(in_channels, width, time_a, padding=padding_a)
        self.norm_a = make_norm(norm, width)
        self.conv_b = Conv3d(width, width, time_b, strides, padding_b, dilations)
        self.norm_b = make_norm(norm, width)
        self.conv_c = Conv3d(width, out_channels, 1)
        self.norm_c = make_norm(norm, out_channels)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            conv = Conv3d(in_channels, out_channels, 1, strides)
            self.shortcut = nn.Sequential(
                OrderedDict(conv=conv, norm=make_norm(norm, out_channels))
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, T, H, W) -> (B, out, T, H / stride, W / stride), rounded up."""
        out = norm_relu(self.norm_a, self.conv_a(self._shift(x)))
        out = norm_relu(self.norm_b, self.conv_b(out))
        out = self.norm_c(self.conv_c(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)), inplace=True)

    def _shift(self, x: Tensor) -> Tensor:
        if self.shift_div is None:
            return x
        shift = partial(temporal_shift, div=self.shift_div)
        if self.processes is None:
            return shift(x)
        return over_cuts(shift, x, Window(3, before=1, after=1), self.processes)

    def begin_stream(self, window: int | None) -> None:
        """Raise a ValueError if frames see each other; see `nl.Stream`."""
        if self.shift_div is not None:
            raise ValueError(f"shifts channels between frames: shift_div={self.shift_div}")
