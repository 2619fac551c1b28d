"""3-D convolutions of video networks, faster on a CPU as matrix products and 2-D convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnet.blocks.frames import channels_last, from_frames, to_frames
from nonlocalnet.ops.precision import autocast_dtype, product_dtype, without_autocast


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` without groups, computed by `conv3d`.

    >>> import torch
    >>> Conv3d(4, 8, (1, 3, 3), padding=(0, 1, 1))(torch.randn(2, 4, 3, 5, 5)).shape
    torch.Size([2, 8, 3, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        stride: int | tuple[int, int, int] = 1,
        padding: int | tuple[int, int, int] = 0,
        dilation: int | tuple[int, int, int] = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias
        )

    def forward(self, input: Tensor) -> Tensor:
        """(B, in, T, H, W) -> (B, out, T', H', W')."""
        padding = self.padding
        plain = self.groups == 1 and self.padding_mode == "zeros"
        if not plain or isinstance(padding, str):  # the attributes were changed after construction
            return super().forward(input)
        return conv3d(input, self.weight, self.bias, self.stride, padding, self.dilation)


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
) -> Tensor:
    """Compute `F.conv3d`, with faster methods on a CPU.

    x (B, in, T, H, W), weight (out, in, k, h, w), bias (out,) -> (B, out, T', H', W').

    On a CPU the result is always in the memory format channels_last_3d. There, 1x1x1 and 3x1x1
    kernels are one matrix product for all taps, and 1xhxw kernels a 2-D convolution of the frames.
    Half precision is multiplied in float32 if the CPU has no units for it. Results equal those of
    `F.conv3d` up to rounding (docs/results.md has the speed-ups). Exported programs hold
    `F.conv3d`.
    """
    device = x.device.type
    # compilers of other runtimes know the convolution itself
    if device != "cpu" or torch.compiler.is_exporting():
        return F.conv3d(x, weight, bias, stride, padding, dilation)
    result = autocast_dtype(x.dtype, device)
    dtype = product_dtype(result, device)
    time, *space = weight.shape[2:]
    with without_autocast(device):
        x = channels_last(x.to(dtype))
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        keeps_time = stride[0] == 1 and (time, padding[0], dilation[0]) in ((1, 0, 1), (3, 1, 1))
        if keeps_time and space == [1, 1] and not any(padding[1:]):
            y = _over_time(x, weight, bias, stride[1:])
        elif keeps_time and time == 1:
            frames, kernel = to_frames(x), weight.squeeze(2)
            y = F.conv2d(frames, kernel, bias, stride[1:], padding[1:], dilation[1:])
            y = from_frames(y, x.shape[0], x.shape[2])
        else:
            y = channels_last(F.conv3d(x, weight, bias, stride, padding, dilation))
    return y.to(result)


def _over_time(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int]) -> Tensor:
    """Convolve with weight (out, in, k, 1, 1), k = 1 or 3: y_t = Σ_i W_i x_{t + i - k // 2} + bias.

    All W_i x are one product. Shifting its parts is cheaper than shifting x.
    """
    rows = x.permute(0, 2, 3, 4, 1)[:, :, :: stride[0], :: stride[1]]  # (B, T, H', W', in)
    if weight.shape[2] == 1:
        y = F.linear(rows, weight.flatten(1), bias)
    else:
        taps = weight.flatten(2).permute(2, 0, 1).flatten(0, 1)  # (3·out, in)
        before, now, after = F.linear(rows, taps).chunk(3, dim=4)
        y = now if bias is None else now + bias
        y = y + F.pad(before, (0, 0, 0, 0, 0, 0, 1, -1)) + F.pad(after, (0, 0, 0, 0, 0, 0, -1, 1))
    return y.permute(0, 4, 1, 2, 3)
