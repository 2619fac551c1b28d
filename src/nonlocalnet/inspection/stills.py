"""Compare the frames of a video one by one: θ and φ of every frame, and where its positions lie."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.clips import ClipSpec
from nonlocalnet.errors import check_choice
from nonlocalnet.inspection.analysis import evaluating, non_local_blocks
from nonlocalnet.inspection.geometry import Axis, find, traced
from nonlocalnet.networks.video_resnet import VideoResNet

FRAMES = 8  # of a clip of a network that does not know its own


@dataclass(frozen=True)
class Still:
    """What a layer compares in one frame.

    Attributes:
        theta, phi: (N, d), of the positions in row-major order.
        options: pairwise, scale, w_f and heads, for `ops.top_keys`.
        y, x: where the rows and columns of positions lie, in pixels of the frame.
        whole: height and width of the frame.
    """

    theta: Tensor
    phi: Tensor
    options: dict[str, Any]
    y: Axis
    x: Axis
    whole: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of positions."""
        return self.y.count, self.x.count

    def centers(self) -> Tensor:
        """Return the (y, x) of each position, (N, 2)."""
        y, x = (torch.tensor([axis.center(i) for i in range(axis.count)]) for axis in self.axes)
        return torch.cartesian_prod(y, x)

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """The axes y and x."""
        return self.y, self.x


def find_layer(network: nn.Module, layer: str | None) -> str:
    """Return the module path of a layer; None is the last non-local block.

    Raises:
        ValueError: there is no such module, or no non-local block.
    """
    if layer is not None:
        check_choice("layer", layer, [name for name, _ in network.named_modules() if name])
        return layer
    blocks = [name for name, block in non_local_blocks(network).items() if block.dims > 1]
    if not blocks:
        raise ValueError(
            "this network has no non-local block: name a layer whose features are compared, such "
            "as layer='layer3'"
        )
    return blocks[-1]


def embed_frames(network: nn.Module, frames: Iterable[Tensor], layer: str) -> Iterator[Still]:
    """Run a network on each frame by itself, and yield what a layer compares in it.

    Args:
        network: of images, or of videos: then a frame is shown as a clip in which nothing moves, as
            long as the network's temporal strides need.
        frames: (C, H, W) each, as the network takes them.
        layer: module path. A `NonLocalBlock` gives θ and φ of all positions, without the pooling of
            its keys. Any other module gives its output x, compared by the plain Gaussian function,
            exp(x_iᵀx_j · (C / 2) ** -0.5), as a plain Gaussian block there would.

    Raises:
        ValueError: the layer's map has not the axes of an image.
    """
    module = network.get_submodule(layer)
    video = _takes_videos(network)
    device = next(network.parameters()).device
    kept: list[Tensor] = []
    if isinstance(module, NonLocalBlock):
        handle = module.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    else:
        handle = module.register_forward_hook(lambda _, args, output: kept.append(output))
    copies = _copies(network) if video else 0
    run = getattr(network, "features", network) if video else network
    try:
        with torch.no_grad(), evaluating(network):
            for frame in frames:
                kept.clear()
                given = frame.unsqueeze(0).to(device)
                clip = given.unsqueeze(2).expand(-1, -1, copies, -1, -1) if video else given
                size = tuple(clip.shape[2:])
                with traced(network, size) as grids:
                    run(clip)
                yield _still(module, layer, kept, grids, size)
    finally:
        handle.remove()


def _takes_videos(network: nn.Module) -> bool:
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    return isinstance(next(convolutions, None), nn.Conv3d)


def _copies(network: nn.Module) -> int:
    """Return how many frames a network of videos needs to give a map."""
    if type(network) is VideoResNet:
        layers = (network.conv1, network.pool1, network.pool2)
        return math.prod(_time(layer.stride) for layer in layers)
    config = getattr(network, "config", {})
    return ClipSpec.parse(config["clip"]).frames if "clip" in config else FRAMES


def _time(stride: int | tuple[int, ...]) -> int:
    return stride if isinstance(stride, int) else stride[0]


def _still(
    module: nn.Module, layer: str, kept: list[Tensor], grids: Any, size: tuple[int, ...]
) -> Still:
    x = kept[-1] if kept else None
    if not isinstance(x, Tensor) or x.ndim != len(size) + 2 or x.shape[0] != 1:
        got = "nothing" if x is None else tuple(x.shape) if isinstance(x, Tensor) else type(x)
        raise ValueError(
            f"layer {layer!r} must give one map of features for a frame, (1, C, H, W); got {got}"
        )
    _, y, width = (Axis(0.5, 1, 1), *find(grids, x.shape[2:], size))[-3:]
    if x.ndim == 5:
        x = x[:, :, x.shape[2] // 2 : x.shape[2] // 2 + 1]  # all are the same but for padding
    if isinstance(module, NonLocalBlock):
        block = copy.copy(module)
        block.subsample, block.extent, block.temporal_group = None, "spacetime", None
        theta, phi, _, options = block.embed(x)
        options = {"pairwise": block.pairwise, **options}
        options = {name: options[name] for name in ("pairwise", "scale", "w_f", "heads")}
        return Still(theta[0], phi[0], options, y, width, size[-2:])
    rows = x.flatten(2)[0].T.contiguous()
    scale = max(rows.shape[1] // 2, 1) ** -0.5
    return Still(rows, rows, {"pairwise": "gaussian", "scale": scale}, y, width, size[-2:])
