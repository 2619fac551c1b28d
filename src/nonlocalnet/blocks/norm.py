"""Normalization layers by number of axes, and the frozen norm of the long-clip networks."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnet.blocks.frames import from_frames, to_frames
from nonlocalnet.blocks.plain import is_plain, known_types
from nonlocalnet.errors import check_choice
from nonlocalnet.ops.precision import wide

BlockNorm = Literal["batch", "frozen", "group", "rms"]  # of a non-local block
EPS = 1.0000001e-5  # the official code's
GROUPS = 32  # of a group norm, as in its paper; fewer where 32 does not divide the channels


class BatchNorm3d(nn.BatchNorm3d):
    """`nn.BatchNorm3d`, which treats frames as samples on a CPU where channels are last.

    torch's backward for channels last is 8 times as fast with four axes as with five
    (docs/results.md).
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, H, W)."""
        super()._check_input_dim(input)
        if input.device.type != "cpu" or input.stride(1) != 1:
            return super().forward(input)
        batch, _, time = input.shape[:3]
        return from_frames(super().forward(to_frames(input)), batch, time)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept frames; `forward` has checked the clip."""


BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: BatchNorm3d}


class FrozenNorm(nn.Module):
    """Scale and shift each channel by constants: y = weight · x + bias.

    A batch norm whose statistics and parameters are frozen and folded:
    weight = gamma / √(var + eps), bias = beta - mean · weight. Both are buffers, (C,), so no
    optimizer sees them.

    Source: paper, section 4 ("we freeze the BN layers"); official code `AffineNd`.

    >>> import torch
    >>> FrozenNorm(4)(torch.ones(2, 4, 3)).shape
    torch.Size([2, 4, 3])
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Reset to scale 1 and shift 0."""
        self.weight.fill_(1)
        self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...), any number of axes."""
        shape = (-1, *[1] * (x.ndim - 2))
        return x * self.weight.view(shape) + self.bias.view(shape)

    def extra_repr(self) -> str:
        return str(self.weight.numel())


class ChannelRMSNorm(nn.RMSNorm):
    """Divide each position by the root mean square of its channels: weight · x / √(mean x² + eps).

    >>> import torch
    >>> y = ChannelRMSNorm(2)(torch.tensor([[[1.0], [7.0]]]))  # the root mean square is 5
    >>> [round(value, 3) for value in y.flatten().tolist()]
    [0.2, 1.4]
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...), any number of axes."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def make_norm(norm: BlockNorm, channels: int, dims: int = 3) -> nn.Module:
    """Make a norm layer by name, for (B, C, ...) with `dims` more axes."""
    check_choice("norm", norm, get_args(BlockNorm))
    if norm == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    if norm == "rms":
        return ChannelRMSNorm(channels)
    return FrozenNorm(channels) if norm == "frozen" else BATCH_NORM[dims](channels, eps=EPS)


KNOWN = {
    dims: known_types(FrozenNorm, BATCH_NORM[dims], torch_norm, nn.SyncBatchNorm)
    for dims, torch_norm in {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}.items()
}


def as_affine(norm: Any, dims: int) -> tuple[Tensor, Tensor] | None:
    """Return the norm's constant scale and shift (C,), y = scale · x + shift.

    None for a batch norm that uses the statistics of its batch, and for a module that must be
    called.
    """
    if not is_plain(norm, KNOWN[dims]) or norm.weight is None:
        return None
    if isinstance(norm, FrozenNorm):
        return norm.weight, norm.bias
    mean, variance = norm.running_mean, norm.running_var
    if norm.training or mean is None or variance is None:
        return None
    scale = norm.weight * (variance.to(wide(variance.dtype)) + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


def norm_relu(norm: Any, x: Tensor) -> Tensor:
    """Compute relu(norm(x)), in place if nothing else can hold the norm's result."""
    return F.relu(norm(x), inplace=is_plain(norm, KNOWN[x.ndim - 2]))
