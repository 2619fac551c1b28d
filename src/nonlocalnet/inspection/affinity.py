"""What a chosen position of a clip attends to in a non-local block of a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.errors import check_choice
from nonlocalnet.models.video_resnet import VideoResNet
from nonlocalnet.ops.pairwise import SOFTMAX_FORMS


@dataclass(frozen=True)
class Attention:
    """The weights with which one position sees all keys.

    Attributes:
        block: the module path of the non-local block.
        query: (t, y, x) in the block's feature map, of size `size` (T', H', W').
        weights: (T', H'', W''), on the map of keys, which subsampling makes smaller; float32.
        normalised: whether they sum to one (softmax forms).
    """

    block: str
    query: tuple[int, int, int]
    size: tuple[int, int, int]
    weights: Tensor
    normalised: bool


def non_local_blocks(model: torch.nn.Module) -> dict[str, NonLocalBlock]:
    """Find the non-local blocks of a network, by module path."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, NonLocalBlock)
    }


@torch.no_grad()
def attend(
    model: VideoResNet, clip: Tensor, at: tuple[int, int, int], *, block: str | None = None
) -> Attention:
    """Compute what the position of a pixel attends to.

    Args:
        model: a network with non-local blocks; used in evaluation mode.
        clip: (3, T, H, W), normalised as for the network.
        at: (frame, row, column) in the clip; the feature-map cell that covers it is the query,
            the map being laid evenly over the clip.
        block: module path of the block; None is the last one.

    Raises:
        ValueError: no non-local block, no such block, a position outside the clip, or a block
            whose extent is not all of space and time.

    Source: paper, figure 3.
    """
    blocks = non_local_blocks(model)
    if not blocks:
        raise ValueError("this network has no non-local block, so no position attends to another")
    name = list(blocks)[-1] if block is None else block
    check_choice("block", name, blocks)
    module = blocks[name]
    if module.extent != "spacetime" or module.temporal_group is not None:
        raise ValueError(
            f"{name} has extent={module.extent!r} and temporal_group={module.temporal_group}; "
            "pictures are drawn for blocks that see all of space and time"
        )
    inside = all(0 <= p < n for p, n in zip(at, clip.shape[1:], strict=True))
    if not inside:
        raise ValueError(
            f"at must be (frame, row, column) within {tuple(clip.shape[1:])}; got {tuple(at)}"
        )
    was_training = model.training
    model.eval()
    maps: dict[str, Tensor] = {}
    device = next(model.parameters()).device
    model.features(clip.unsqueeze(0).to(device), maps)
    model.train(was_training)
    x = maps[name.replace("non_local", "block")]  # what the block was given
    size = (x.shape[2], x.shape[3], x.shape[4])
    t, row, column = (p * s // n for p, s, n in zip(at, size, clip.shape[1:], strict=True))
    query = torch.tensor([(t * size[1] + row) * size[2] + column], device=device)
    weights = module.affinity(x, query).float().cpu().view(module.key_size(size))
    return Attention(name, (t, row, column), size, weights, module.pairwise in SOFTMAX_FORMS)
