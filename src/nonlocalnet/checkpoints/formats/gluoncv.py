"""GluonCV's I3D, plain and with five or ten blocks: files of its torch and of its MXNet models.

Blocks are embedded Gaussian, scaled, with all keys. The stem strides over time whatever the clip.
A file has no configuration, and some tensors under two names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nonlocalnet.checkpoints.exporting import depth_of, rename_back, require
from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.formats.torchvision import MEAN, STD
from nonlocalnet.checkpoints.infer import infer
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.translate import AFFINE, BATCH_NORM, Rules, Translated, layer, rename

ORIGIN = "GluonCV"
# What its code fixes.
NETWORK: dict[str, Any] = {
    "temporal_stride": 2,
    "stem_padding": 1,
    "pool1_time": 1,
    "pool2_time": 2,
}
BLOCKS: dict[str, Any] = {"pairwise": "embedded_gaussian", "scale": "auto", "subsample": None}
# Second names of the same tensors.
SECOND = {
    "nonlocal_block.W.": "nonlocal_block.W_bn.0.",
    "nonlocal_block.bn.": "nonlocal_block.W_bn.1.",
}
# MXNet's names of what a norm has.
NORM = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean"}
NORM |= {"running_var": "running_var"}


def _norm(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield from layer(theirs, ours, BATCH_NORM)
    for name, torchs in NORM.items():
        yield f"{theirs}.{name}", f"{ours}.{torchs}"


def _rules() -> Iterator[tuple[str, str]]:
    yield from layer("first_stage.0", "conv1")
    yield from _norm("first_stage.1", "norm1")
    for head in ("fc", "head.1"):
        yield from layer(head, "fc", AFFINE)
    for stage in (2, 3, 4, 5):
        theirs, ours = f"res_layers.{stage - 2}.{{i}}", f"res{stage}.block{{i}}"
        yield from layer(f"{theirs}.downsample.0", f"{ours}.shortcut.conv")
        yield from _norm(f"{theirs}.downsample.1", f"{ours}.shortcut.norm")
        for number, branch in enumerate("abc", 1):
            place = 3 * (number - 1)  # convolution, norm, ReLU
            for conv in (f"conv{number}", f"bottleneck.{place}"):
                yield from layer(f"{theirs}.{conv}", f"{ours}.conv_{branch}")
            for norm in (f"bn{number}", f"bottleneck.{place + 1}"):
                yield from _norm(f"{theirs}.{norm}", f"{ours}.norm_{branch}")
        for block in ("nonlocal_block", "bottleneck.8"):
            inside, ours = f"{theirs}.{block}", f"res{stage}.non_local{{i}}"
            for name in ("theta", "phi", "g"):
                yield from layer(f"{inside}.{name}", f"{ours}.{name}", AFFINE)
            for conv in ("W", "W_bn.0"):
                yield from layer(f"{inside}.{conv}", f"{ours}.w_z", AFFINE)
            for norm in ("bn", "W_bn.1"):
                yield from _norm(f"{inside}.{norm}", f"{ours}.norm")


RULES = Rules(_rules())


def translate(checkpoint: Checkpoint) -> Translated:
    """Translate a checkpoint.

    Raises:
        ValueError: it is another network than I3D with bottlenecks, or the two names of a tensor
            have different numbers.
    """
    result = rename(ORIGIN, checkpoint, RULES, projects=(ORIGIN,), repeated=True)
    result.fields = {
        **infer(result.tensors),
        **NETWORK,
        "window": None,  # its head averages the whole map, whatever the crop
    }
    if result.fields["non_local"]:
        result.fields |= BLOCKS
    result.mean, result.std = MEAN, STD
    released = "as in the released ones"
    result.derived |= dict.fromkeys(("mean", "std", "multi_label"), released)
    result.asked["clip"] = "'32x2' for the released ones"
    return result


def export(
    arguments: Mapping[str, Any], state: Mapping[str, LazyTensor], info: WeightsInfo
) -> dict[str, LazyTensor]:
    """Translate a network to GluonCV's names: its torch file, with both names of a tensor.

    Raises:
        ValueError: GluonCV's I3D has no such option.
    """
    depth_of(ORIGIN, arguments)
    own: dict[str, Any] = {
        "widths": (64, 128, 256, 512),
        "strides": (1, 2, 2, 2),
        "shift_div": None,
    }
    require(ORIGIN, arguments, NETWORK | own | (BLOCKS if arguments["non_local"] else {}))
    result = {}
    for name, entry in rename_back(ORIGIN, RULES, state).items():
        result[name] = entry
        for first, second in SECOND.items():
            if first in name:
                result[name.replace(first, second)] = entry
        if name.startswith("fc."):
            result[name.replace("fc.", "head.1.")] = entry
    return result
