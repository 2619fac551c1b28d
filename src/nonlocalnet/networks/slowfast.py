"""SlowFast: a slow pathway of few frames and a fast, narrow one of all, joined after each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnet.blocks.convolution import Conv3d
from nonlocalnet.blocks.norm import make_norm, norm_relu
from nonlocalnet.networks.video_resnet import EXPANSION, VideoResNet, of_stages
from nonlocalnet.ops.streaming import RunningMean
from nonlocalnet.options import Norm

FAST = "fast."  # begins the names of the fast pathway's stages


class SlowFast(VideoResNet):
    """Classify clips with two pathways.

    The network takes the clip of the fast pathway and selects the slow pathway's frames itself.
    After pool1 and after each stage but the last, a convolution over time reduces the fast features
    to the slow frames, and they are concatenated behind the slow channels. The classifier reads
    both pathways' averages, slow before fast.

    Args:
        alpha: frames of the fast pathway for each of the slow one.
        beta: channels of the slow pathway for each of the fast one.
        lateral_kernel: frames that the convolutions between the pathways see.
        lateral_ratio: their output channels for each input channel.
        fast_conv1_kernel, fast_kernels_a: `conv1_kernel` and `kernels_a` of the fast pathway.
        arguments: of `VideoResNet`: of the slow pathway, and of both where the above do not differ.
            In `non_local`, and in `subsample` and `temporal_group` of single stages, "fast.res3"
            is a stage of the fast pathway. `temporal_group` counts frames of its own pathway.

    Source: Feichtenhofer et al., SlowFast Networks, ICCV 2019, section 3; PySlowFast.
    """

    def __init__(
        self,
        *,
        alpha: int = 4,
        beta: int = 8,
        lateral_kernel: int = 5,
        lateral_ratio: int = 2,
        fast_conv1_kernel: tuple[int, int] = (5, 7),
        fast_kernels_a: Sequence[Sequence[int]] | None = None,
        **arguments: Any,
    ) -> None:
        depths = arguments.get("depths", (3, 4, 6, 3))
        widths = arguments.get("widths", (64, 128, 256, 512))
        channels = arguments.get("conv1_channels", 64)
        norm: Norm = arguments.get("norm", "batch")
        if alpha < 1 or beta < 1 or any(width % beta for width in (channels, *widths)):
            raise ValueError(
                "alpha must be at least 1, and beta must divide conv1_channels and all widths; got "
                f"alpha={alpha}, beta={beta}, conv1_channels={channels}, widths={tuple(widths)}"
            )
        # after pool1 and all stages but the last
        fast_channels = [channels // beta, *(EXPANSION * width // beta for width in widths[:-1])]
        joined = [lateral_ratio * count for count in fast_channels]
        slow, fast = _divide(arguments)
        super().__init__(**slow, joined=joined)
        self.alpha = alpha
        fast |= {
            "num_classes": 0,
            "widths": [width // beta for width in widths],
            "conv1_channels": channels // beta,
            "conv1_kernel": fast_conv1_kernel,
            "kernels_a": fast_kernels_a,
        }
        self.fast = VideoResNet(**fast)
        self.lateral = nn.ModuleDict()
        for name, count in zip(
            ["pool1", *(f"res{i + 2}" for i in range(len(depths) - 1))], fast_channels, strict=True
        ):
            self.lateral[name] = Lateral(count, lateral_ratio * count, lateral_kernel, alpha, norm)
        classifier = self.fc
        both = classifier.in_features + EXPANSION * widths[-1] // beta
        self.fc = nn.Linear(both, classifier.out_features)
        self._reset_parameters(norm)

    def features(self, x: Tensor, out: dict[str, Tensor] | None = None) -> Tensor:
        """Compute the last feature maps, averaged over time; keep every intermediate in `out`.

        (B, 3, T, H, W) -> (B, C, 1, H', W'), the channels of the slow pathway before those of the
        fast one. Names in `out` are module paths: res3.non_local1, fast.res3, lateral.res3, ...

        Raises:
            ValueError: alpha does not divide the number of frames.
        """
        slow, fast = x[:, :, slow_frames(x.shape[2], self.alpha)], x
        for part in self._parts():
            slow = self._run(part, slow, out)
            fast = self.fast._run(part, fast, out, FAST)
            if part in self.lateral:
                more = self.lateral[part](fast)
                if out is not None:
                    out[f"lateral.{part}"] = more
                slow = torch.cat([slow, more], dim=1)
        return torch.cat([y.mean(dim=2, keepdim=True) for y in (slow, fast)], dim=1)

    def begin_stream(self, window: int | None) -> RunningMean:
        """Raise a ValueError; see `nl.Stream`."""
        raise ValueError("takes the frames of its slow pathway from all over the clip")

    def check_shared(self) -> None:
        """Raise a ValueError; see `nl.share_frames`."""
        raise ValueError("takes the frames of its slow pathway from all over the clip")


class Lateral(nn.Module):
    """Reduce features of the fast pathway to the frames of the slow one: kx1x1, norm, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, alpha: int, norm: Norm
    ) -> None:
        super().__init__()
        self.conv = Conv3d(
            in_channels, out_channels, (kernel, 1, 1), (alpha, 1, 1), (kernel // 2, 0, 0)
        )
        self.norm = make_norm(norm, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, T, H, W) -> (B, out, T / alpha, H, W)."""
        return norm_relu(self.norm, self.conv(x))


def slow_frames(frames: int, alpha: int) -> list[int]:
    """Select the frames of the slow pathway: evenly from the first to the last, rounded down.

    Raises:
        ValueError: alpha does not divide the number of frames.

    Source: PySlowFast, `pack_pathway_output`. These are not every alpha-th frame.

    >>> slow_frames(32, 4)
    [0, 4, 8, 13, 17, 22, 26, 31]
    """
    if frames % alpha:
        raise ValueError(f"alpha={alpha} must divide the number of frames; got {frames}")
    count = frames // alpha
    return [i * (frames - 1) // max(count - 1, 1) for i in range(count)]


def _divide(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide the arguments of stages by pathway, and share all others.

    Raises:
        ValueError: the same as `VideoResNet`, for stages that there are not.
    """
    slow, fast = dict(arguments), dict(arguments)
    for name in ("non_local", "subsample", "temporal_group"):
        if name not in arguments:
            continue
        value = arguments[name]
        if name == "temporal_group":
            value = of_stages(value, "res3")
        if isinstance(value, Mapping):
            slow[name] = {k: v for k, v in value.items() if not k.startswith(FAST)}
            fast[name] = {k.removeprefix(FAST): v for k, v in value.items() if k.startswith(FAST)}
    return slow, fast
