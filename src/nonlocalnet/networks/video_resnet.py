"""The paper's video networks: C2D and I3D ResNets, with non-local blocks where told."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnet.blocks.bottleneck import Bottleneck
from nonlocalnet.blocks.convolution import Conv3d
from nonlocalnet.blocks.cuts import SharesFrames
from nonlocalnet.blocks.non_local_block import NonLocalBlock, SubsamplePosition
from nonlocalnet.blocks.norm import BlockNorm, make_norm, norm_relu
from nonlocalnet.errors import check_choice, refuse_script
from nonlocalnet.ops.streaming import RunningMean
from nonlocalnet.options import Extent, Norm, Pairwise

EXPANSION = 4


class VideoResNet(nn.Module, SharesFrames):
    """Classify clips: conv1, pool1, res2, pool2, res3, res4, res5, global average pool, fc.

    Args:
        num_classes: K; 0 is a network without classifier, one pathway of several.
        depths: residual blocks of each stage; the stages are called res2, res3, ...
        widths: inner width of each stage; a stage gives 4 times as many channels.
        conv1_channels: channels of the stem.
        conv1_kernel: (time, space).
        temporal_stride: of conv1 and of pool1 each: 1 for sparse clips (8x8, 32x4), 2 for dense
            ones (32x2, 128x1); by name, 1 with frame-causal blocks, as `pool2_time`.
        stem_padding: of pool1 in space: 0 as in the official code, 1 as in torchvision.
        pool1_time: frames that pool1 takes the maximum of; None is its stride, as officially.
        pool2_time: the same of pool2, and its stride; 1 is no pool2.
        strides, dilations: of each stage in space: the stride of its first block, and the distance
            of the taps of all its 3x3 kernels. None is 1, then 2, and 1.
        kernels_a: per stage and block, the temporal kernel of the first convolution.
        kernels_b: the same of the middle one.
        shift_div: of TSM: 1/shift_div of the channels that a block's first convolution reads are
            those of the next frame, and as many those of the previous one (`temporal_shift`). Every
            block has it, or every second one if a stage has 23 or more. The classifier then scores
            each frame, and the scores are averaged. None is no shift.
        non_local: for each stage by name, the blocks after which a non-local block stands.
        pairwise, extent, scale, subsample_position: of every non-local block.
        subsample: the same; or of each stage by name.
        bias: whether the projections of the non-local blocks have one.
        block_norm: norm of the non-local blocks, as in `NonLocalBlock`; "auto" is "batch" in a
            network of batch norms and None in a frozen one, as in the official code.
        norm: "batch", or "frozen" for long clips: every norm is a constant scale and shift.
        temporal_group: consecutive frames that see each other in the non-local blocks of each stage
            by name; a number is that of res3, None is all frames.
        window: side of the average pooling's window in fully convolutional testing, which is
            the last feature map's side at the training crop.
        dropout: before fc, in training.
        joined: channels that another pathway adds to the input of each stage; see `SlowFast`.

    Source: paper, table 1; official code `lib/models/resnet_video.py` and `resnet_video_org.py`,
    which we follow where the two differ: pools are 1x3x3 (dense: 2x3x3) and 2x1x1, without
    padding; I3D inflates all blocks of res2.
    """

    config: dict[str, Any]  # what builds it again; set by `create_model`
    arguments: dict[str, Any]  # all of the above; set by `create_model`
    info: Any  # what its weights file says; set by `load`
    past: RunningMean | None = None  # of a stream, during its calls

    def __init__(
        self,
        *,
        num_classes: int = 400,
        depths: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        conv1_channels: int = 64,
        conv1_kernel: tuple[int, int] = (1, 7),
        temporal_stride: int = 1,
        stem_padding: int = 0,
        pool1_time: int | None = None,
        pool2_time: int = 2,
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        kernels_a: Sequence[Sequence[int]] | None = None,
        kernels_b: Sequence[Sequence[int]] | None = None,
        shift_div: int | None = None,
        non_local: Mapping[str, Sequence[int]] | None = None,
        pairwise: Pairwise = "embedded_gaussian",
        extent: Extent = "spacetime",
        scale: float | Literal["auto"] | None = "auto",
        subsample: Sequence[int] | Mapping[str, Sequence[int] | None] | None = (1, 2, 2),
        subsample_position: SubsamplePosition = "before",
        bias: bool = True,
        block_norm: BlockNorm | Literal["auto"] | None = "auto",
        norm: Norm = "batch",
        temporal_group: int | Mapping[str, int | None] | None = None,
        window: int | None = 7,
        dropout: float = 0.5,
        joined: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        strides = (1, *[2] * (len(depths) - 1)) if strides is None else strides
        dilations = (1,) * len(depths) if dilations is None else dilations
        joined = (0,) * len(depths) if joined is None else joined
        for name, values in (("widths", widths), ("strides", strides), ("dilations", dilations)):
            if len(values) != len(depths):
                raise ValueError(
                    f"depths and {name} are of the same stages; got {len(depths)} and {len(values)}"
                )
        groups = of_stages(temporal_group, "res3")
        if block_norm == "auto":
            block_norm = "batch" if norm == "batch" else None
        time, space = conv1_kernel
        self.conv1 = Conv3d(
            3,
            conv1_channels,
            (time, space, space),
            stride=(temporal_stride, 2, 2),
            padding=(time // 2, space // 2, space // 2),
        )
        self.norm1 = make_norm(norm, conv1_channels)
        self.pool1 = nn.MaxPool3d(
            (temporal_stride if pool1_time is None else pool1_time, 3, 3),
            (temporal_stride, 2, 2),
            (0, stem_padding, stem_padding),
        )
        places = _check_places(non_local or {}, depths)
        in_channels = conv1_channels
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            stage = f"res{index + 2}"
            in_channels += joined[index]
            pooled = subsample.get(stage) if isinstance(subsample, Mapping) else subsample
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(depth):
                blocks[f"block{i}"] = Bottleneck(
                    in_channels,
                    width,
                    EXPANSION * width,
                    stride=strides[index] if i == 0 else 1,
                    dilation=dilations[index],
                    kernel_a=kernels_a[index][i] if kernels_a else 1,
                    kernel_b=kernels_b[index][i] if kernels_b else 1,
                    norm=norm,
                    shift_div=None if i % shift_step(depths) else shift_div,
                )
                in_channels = EXPANSION * width
                if i in places.get(stage, ()):
                    blocks[f"non_local{i}"] = NonLocalBlock(
                        in_channels,
                        pairwise=pairwise,
                        extent=extent,
                        scale=scale,
                        subsample=pooled,
                        subsample_position=subsample_position,
                        norm=block_norm,
                        bias=bias,
                        temporal_group=groups.get(stage),
                    )
            self.add_module(stage, nn.Sequential(blocks))
            if index == 0:
                self.pool2 = nn.MaxPool3d((pool2_time, 1, 1))
        self.shift_div = shift_div
        self.window = window
        self.dropout = nn.Dropout(dropout)
        self.fc: Any = nn.Linear(in_channels, num_classes) if num_classes else None
        self._reset_parameters(norm)

    def _reset_parameters(self, norm: Norm) -> None:
        """MSRA for convolutions; the last norm of a residual branch starts at zero if it learns."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck) and norm == "batch":
                nn.init.zeros_(cast("Tensor", module.norm_c.weight))
        for module in self.modules():
            if isinstance(module, NonLocalBlock):
                module.reset_parameters()
        if self.fc is not None:
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)

    def features(self, x: Tensor, out: dict[str, Tensor] | None = None) -> Tensor:
        """Compute the last feature map; keep every intermediate in `out` if it is given.

        (B, 3, T, H, W) -> (B, C, T', H', W'). Names in `out` are module paths: conv1, pool1, res2,
        res2.block0, pool2, res3.non_local1, ...
        """

        for part in self._parts():
            x = self._run(part, x, out)
        return x

    def _parts(self) -> list[str]:
        """List what follows each other: the stem as "pool1", stages and pool2."""
        names = (name for name, _ in self.named_children())
        return ["pool1", *(name for name in names if name == "pool2" or name.startswith("res"))]

    def _run(self, part: str, x: Tensor, out: dict[str, Tensor] | None, prefix: str = "") -> Tensor:
        """Compute one part, and keep what it gives in `out`, under names with a prefix."""
        if part == "pool1":
            x = _keep(out, f"{prefix}conv1", self.conv1(x))
            return _keep(out, f"{prefix}pool1", self.pool1(norm_relu(self.norm1, x)))
        stage = getattr(self, part)
        with _keeping(stage, f"{prefix}{part}.", out):
            return _keep(out, f"{prefix}{part}", stage(x))

    def forward(self, x: Tensor) -> Tensor:
        """Score the classes of each clip, from features averaged over the whole clip.

        (B, 3, T, H, W) -> logits (B, K); without classifier, these features (B, C).
        """
        x = self._average(self.features(x).mean(dim=(3, 4)))
        return x if self.fc is None else self.fc(x)

    def logits_map(self, x: Tensor) -> Tensor:
        """Score the classes at every position of the average pooling's window, slid by one.

        (B, 3, T, H, W) -> (B, K, H' - window + 1, W' - window + 1); the window covers all frames.
        At the training crop this is `forward`, as one position.
        """
        if self.fc is None:
            raise ValueError("this network has no classifier (num_classes=0): it predicts nothing")
        x = self.features(x)
        size = x.shape[3:]
        window = size if self.window is None else [min(self.window, s) for s in size]
        x = self._average(F.avg_pool3d(x, (1, *window), stride=1))
        return self.fc(x.movedim(1, -1)).movedim(-1, 1)

    def _average(self, x: Tensor) -> Tensor:
        """Average features over frames, (B, C, T, ...) -> (B, C, ...), and drop some of them.

        TSM scores each frame and averages the scores. The classifier is linear, so it can score the
        average instead; frames differ only in what is dropped.
        """
        if self.past is not None:
            return self.past(x)
        if self.shift_div is not None:
            return self._mean(self.dropout(x))
        x = self._mean(x)
        if self.processes is None or not self.training:
            return self.dropout(x)
        return x * self.processes.first(self.dropout(torch.ones_like(x)))  # the same in all

    def _mean(self, x: Tensor) -> Tensor:
        return x.mean(dim=2) if self.processes is None else self.processes.mean(x, 2)

    def __prepare_scriptable__(self) -> NoReturn:
        """Raise a TypeError: torch.jit.script asks for this."""
        refuse_script(self)

    def begin_stream(self, window: int | None) -> RunningMean:
        """Return the running mean of features that the classifier reads; see `nl.Stream`."""
        return RunningMean(window)

    def probabilities(self, x: Tensor, *, multi_label: bool = False) -> Tensor:
        """Compute class probabilities as the paper's fully convolutional testing does.

        (B, 3, T, H, W) -> (B, K): softmax (multi-label: sigmoid) at every position of
        `logits_map`, then the mean over positions. Not the other way round.

        Source: official code, `lib/utils/metrics.py` and the test net's `pred`.
        """
        logits = self.logits_map(x)
        p = logits.sigmoid() if multi_label else logits.softmax(dim=1)
        return p.mean(dim=(2, 3))


def shift_step(depths: Sequence[int]) -> int:
    """Return 1 if every block of a TSM shifts, or 2 if every second one does.

    Source: TSM's `make_temporal_shift`, MMAction2's `ResNetTSM`.

    >>> shift_step((3, 4, 6, 3)), shift_step((3, 4, 23, 3))
    (1, 2)
    """
    return 2 if max(depths) >= 23 else 1


def use_fast_layout(network: nn.Module) -> None:
    """Lay kernels out as 3-D convolutions are fastest, on a CPU too (docs/results.md)."""
    network.to(memory_format=torch.channels_last_3d)


def of_stages(value: Any, stage: str) -> Mapping[str, Any]:
    """Say an argument for each stage by name; a value alone is that of the given stage."""
    return value if isinstance(value, Mapping) else {stage: value}


def _keep(out: dict[str, Tensor] | None, name: str, x: Tensor) -> Tensor:
    if out is not None:
        out[name] = x
    return x


@contextmanager
def _keeping(stage: nn.Module, prefix: str, out: dict[str, Tensor] | None) -> Generator[None]:
    """Keep what a stage's blocks give in `out`. The stage itself is called: hooks on it run."""

    def keep(name: str, module: object, args: object, y: Tensor) -> None:
        if out is not None:
            out[name] = y

    blocks = () if out is None else stage.named_children()
    handles = [
        block.register_forward_hook(partial(keep, prefix + child)) for child, block in blocks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_places(
    places: Mapping[str, Sequence[int]], depths: Sequence[int]
) -> Mapping[str, Sequence[int]]:
    stages = {f"res{index + 2}": depth for index, depth in enumerate(depths)}
    for stage, blocks in places.items():
        check_choice("non_local stage", stage, stages)
        for i in blocks:
            if not 0 <= i < stages[stage]:
                raise ValueError(
                    f"non_local[{stage!r}] must name blocks 0 to {stages[stage] - 1}; got {i}"
                )
    return places
