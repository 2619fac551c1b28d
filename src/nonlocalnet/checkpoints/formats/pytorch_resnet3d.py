"""The I3D of pytorch-resnet3d (Tushar-N): official weights under the names of an image classifier.

Kernels have a time axis: the stem is 5x7x7. Its code fixes what the official files do not say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nonlocalnet.checkpoints.exporting import rename_back, require
from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.formats.torchvision import RULES as IMAGE_RULES
from nonlocalnet.checkpoints.infer import infer
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.translate import (
    AFFINE,
    BATCH_NORM,
    COUNTER,
    Rules,
    Translated,
    layer,
    rename,
)
from nonlocalnet.clips import Views
from nonlocalnet.networks.arguments import resolve

ORIGIN = "pytorch-resnet3d"
# What its code fixes.
NETWORK: dict[str, Any] = {
    "temporal_stride": 2,
    "stem_padding": 0,
    "pool1_time": 2,
    "pool2_time": 2,
}
BLOCKS: dict[str, Any] = {
    "pairwise": "embedded_gaussian",
    "scale": "auto",
    "subsample": (1, 2, 2),
    "subsample_position": "before",
}


def _rules() -> Iterator[tuple[str, str]]:
    yield from IMAGE_RULES.pairs
    for stage in (2, 3, 4, 5):
        theirs, ours = f"layer{stage - 1}.{{i}}.nl", f"res{stage}.non_local{{i}}"
        for name in ("theta", "phi", "g"):
            yield from layer(f"{theirs}.{name}", f"{ours}.{name}", AFFINE)
        yield from layer(f"{theirs}.out", f"{ours}.w_z", AFFINE)
        yield from layer(f"{theirs}.bn", f"{ours}.norm", BATCH_NORM)


RULES = Rules(_rules())


def translate(checkpoint: Checkpoint) -> Translated:
    """Translate a checkpoint.

    Raises:
        ValueError: it is another 3-D ResNet, such as one with a 7x7x7 stem.
    """
    result = rename(ORIGIN, checkpoint, RULES, projects=(ORIGIN,))
    stem = result.shapes().get("conv1.weight", ())
    if stem[2:] != (5, 7, 7):
        size = "x".join(map(str, stem[2:]))
        raise ValueError(f"it is a 3-D ResNet with a stem of {size}; the supported I3D has 5x7x7")
    result.fields = {
        **infer(result.tensors),
        **NETWORK,
        "window": None,  # its head averages the whole map, whatever the crop
    }
    if result.fields["non_local"]:
        result.fields |= BLOCKS
    result.derived |= dict.fromkeys(("mean", "std", "multi_label"), "as its code has it")
    result.asked["clip"] = "'32x2', as its code has it"
    result.views = Views(average="logits")
    return result


def export(
    arguments: Mapping[str, Any], state: Mapping[str, LazyTensor], info: WeightsInfo
) -> dict[str, LazyTensor]:
    """Translate a network to the names of pytorch-resnet3d, without batch counters.

    Raises:
        ValueError: its code has no such network.
    """
    row = resolve("i3d_r50_nl5" if arguments["non_local"] else "i3d_r50")
    own: dict[str, Any] = {
        name: row[name] for name in ("depths", "conv1_kernel", "kernels_a", "non_local")
    }
    own |= {"widths": (64, 128, 256, 512), "strides": (1, 2, 2, 2), "shift_div": None}
    own |= {"kernels_b": None}
    require(ORIGIN, arguments, NETWORK | own | (BLOCKS if arguments["non_local"] else {}))
    kept = {name: entry for name, entry in state.items() if not name.endswith(COUNTER)}
    return rename_back(ORIGIN, RULES, kept)
