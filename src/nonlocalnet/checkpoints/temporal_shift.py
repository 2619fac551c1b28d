"""Names and kernels in the files of TSM, and of MMAction2's TSM.

A network of images is wrapped there: a convolution with a shift is inside `.net`, a residual block
with a non-local block after it inside `.block`; kernels have no time axis.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.translate import Translated
from nonlocalnet.networks.video_resnet import shift_step

SHIFTED, WRAPPED = ".net", ".block"
PLACE = r"layer(\d+)\.(\d+)\."  # stage and residual block


def unwrap(name: str) -> str:
    """Take the wrappers out of a name.

    >>> unwrap("layer2.0.block.conv1.net.weight")
    'layer2.0.conv1.weight'
    """
    return name.replace(f"{SHIFTED}.", ".").replace(f"{WRAPPED}.", ".")


def wrap(name: str, shifted: str, depths: Sequence[int], blocks: Iterable[tuple[int, int]]) -> str:
    """Put the wrappers into a name.

    Args:
        name: of a parameter.
        shifted: how the name of a shifted convolution ends, such as "conv1.weight".
        depths: residual blocks of each stage.
        blocks: stage (from 1) and residual block of each non-local block.
    """
    found = re.search(PLACE, name)
    if found is None:
        return name
    stage, block = int(found[1]), int(found[2])
    if name.endswith(f".{shifted}") and block % shift_step(depths) == 0:
        head, _, tail = name.rpartition(".")
        name = f"{head}{SHIFTED}.{tail}"
    inside = name[found.end() :].startswith(("conv1", "conv2", "conv3", "bn", "downsample"))
    if inside and (stage, block) in blocks:
        name = f"{name[: found.end() - 1]}{WRAPPED}{name[found.end() - 1 :]}"
    return name


def check_shift(names: Iterable[str], depths: Sequence[int]) -> None:
    """Check that the convolutions with a shift are those that our TSM shifts.

    Raises:
        ValueError: there is no shift, or it is elsewhere.
    """
    found = {m.groups() for name in names if (m := re.search(PLACE + rf".*\{SHIFTED}\.", name))}
    outside = [name for name in names if re.search(PLACE.rstrip(r"\.") + rf"\{SHIFTED}\.", name)]
    if not found:
        raise ValueError(
            "it is one of the 2-D networks without a temporal shift (TSN, C2D): only TSM fits"
        )
    step = shift_step(depths)
    expected = {
        (str(stage), str(block))
        for stage, depth in enumerate(depths, 1)
        for block in range(0, depth, step)
    }
    if outside or found != expected:
        where = "whole residual blocks" if outside else f"{len(found)} residual blocks"
        raise ValueError(
            f"it shifts {where}; the supported TSM shifts the first convolution of "
            f"{'every' if step == 1 else 'every second'} block"
        )


def add_time_axis(result: Translated) -> bool:
    """Turn the kernels of a network of images into kernels of one frame; tell whether it is one."""
    stem = result.tensors.get("conv1.weight")
    if stem is None or len(stem.shape) != 4:
        return False
    flat = {name: entry for name, entry in result.tensors.items() if len(entry.shape) == 4}
    for name, entry in flat.items():
        shape = (*entry.shape[:2], 1, *entry.shape[2:])
        result.tensors[name] = entry.map(shape, lambda weight: weight.unsqueeze(2))
    return True


def remove_time_axis(name: str, entry: LazyTensor) -> LazyTensor:
    """Turn a kernel of one frame, outside of non-local blocks, into a kernel of images."""
    if len(entry.shape) != 5 or ".non_local" in name:
        return entry
    shape = (*entry.shape[:2], *entry.shape[3:])
    return entry.map(shape, lambda weight: weight.squeeze(2))


def blocks_of(arguments: Mapping[str, Any]) -> set[tuple[int, int]]:
    """List stage (from 1) and residual block of each non-local block."""
    places = arguments["non_local"] or {}
    return {(int(stage[3:]) - 1, block) for stage, blocks in places.items() for block in blocks}
