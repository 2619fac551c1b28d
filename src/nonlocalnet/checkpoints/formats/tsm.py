"""TSM's own files: a 2-D ResNet whose convolutions and blocks are wrapped, inside `base_model`.

Its blocks are embedded Gaussian without scale, and pool keys after the projections. The number of
frames and the share of shifted channels are in the file's name alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nonlocalnet.checkpoints.exporting import depth_of, rename_back, require
from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.formats.torchvision import MEAN, STD
from nonlocalnet.checkpoints.formats.torchvision import RULES as IMAGE_RULES
from nonlocalnet.checkpoints.infer import infer
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.temporal_shift import (
    add_time_axis,
    blocks_of,
    check_shift,
    remove_time_axis,
    unwrap,
    wrap,
)
from nonlocalnet.checkpoints.translate import AFFINE, BATCH_NORM, Rules, Translated, layer, rename
from nonlocalnet.clips import Views

ORIGIN = "TSM (temporal-shift-module)"
BASE = "base_model."
# What its code fixes.
NETWORK: dict[str, Any] = {
    "temporal_stride": 1,
    "stem_padding": 1,
    "pool1_time": 1,
    "pool2_time": 1,
}
BLOCKS: dict[str, Any] = {
    "pairwise": "embedded_gaussian",
    "scale": None,
    "subsample_position": "after",
}


def _rules() -> Iterator[tuple[str, str]]:
    yield from layer("new_fc", "fc", AFFINE)
    yield from ((BASE + theirs, ours) for theirs, ours in IMAGE_RULES.pairs)
    for stage in (2, 3, 4, 5):
        theirs, ours = f"{BASE}layer{stage - 1}.{{i}}.nl", f"res{stage}.non_local{{i}}"
        yield from layer(f"{theirs}.theta", f"{ours}.theta", AFFINE)
        for name in ("phi", "g"):  # with pooled keys the convolution is the first of two
            yield from layer(f"{theirs}.{name}.0", f"{ours}.{name}", AFFINE)
            yield from layer(f"{theirs}.{name}", f"{ours}.{name}", AFFINE)
        yield from layer(f"{theirs}.W.0", f"{ours}.w_z", AFFINE)
        yield from layer(f"{theirs}.W.1", f"{ours}.norm", BATCH_NORM)


RULES = Rules(_rules())


def translate(checkpoint: Checkpoint) -> Translated:
    """Translate a checkpoint.

    Raises:
        ValueError: it is another network than TSM with bottlenecks, such as TSN or MobileNet.
    """
    result = rename(ORIGIN, checkpoint, RULES, projects=("TSM",), unwrap=unwrap)
    add_time_axis(result)
    result.fields = {
        **infer(result.tensors),
        **NETWORK,
        "window": None,  # its head averages the whole map, whatever the crop
    }
    check_shift(checkpoint.tensors, result.fields["depths"])
    if result.fields["non_local"]:
        pooled = any(re.search(r"\.nl\.g\.0\.", key) for key in checkpoint.tensors)
        result.fields |= BLOCKS | {"subsample": (1, 2, 2) if pooled else None}
    del result.fields["shift_div"]
    result.assumed["shift_div"] = (8, "as in the released ones; only a file's name says it")
    result.asked["clip"] = "'8x8' (dense clips) or '8seg' (segments), as the file's name says"
    result.mean, result.std = MEAN, STD
    result.derived |= dict.fromkeys(("mean", "std", "multi_label"), "as in the released ones")
    result.views = Views(rule="tsm", average="logits")
    return result


def export(
    arguments: Mapping[str, Any], state: Mapping[str, LazyTensor], info: WeightsInfo
) -> dict[str, Any]:
    """Translate a network to TSM's format, as its training writes it.

    Raises:
        ValueError: its code has no such network.
    """
    depth_of("TSM", arguments)
    own: dict[str, Any] = {
        "widths": (64, 128, 256, 512),
        "strides": (1, 2, 2, 2),
        "conv1_kernel": (1, 7),
    }
    own |= {"kernels_a": None, "kernels_b": None}
    require("TSM", arguments, NETWORK | own | (BLOCKS if arguments["non_local"] else {}))
    if not arguments["shift_div"]:
        raise ValueError("TSM's networks have a temporal shift (shift_div); this one has none")
    if arguments["non_local"] and arguments["subsample"] not in (None, (1, 2, 2), [1, 2, 2]):
        raise ValueError(f"TSM pools keys by (1, 2, 2); this network by {arguments['subsample']}")
    flat = {name: remove_time_axis(name, entry) for name, entry in state.items()}
    result = {}
    for name, entry in rename_back("TSM", RULES, flat).items():
        full = wrap(name, "conv1.weight", arguments["depths"], blocks_of(arguments))
        if arguments["subsample"] is None:
            full = full.replace(".nl.g.0.", ".nl.g.").replace(".nl.phi.0.", ".nl.phi.")
        result[f"module.{full}"] = entry
    return {"epoch": 0, "arch": "resnet", "state_dict": result, "optimizer": {}, "best_prec1": 0.0}
