"""PyTorchVideo's plain C2D and I3D."""

from __future__ import annotations

from collections.abc import Iterator

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.infer import infer
from nonlocalnet.checkpoints.translate import AFFINE, BATCH_NORM, Rules, Translated, layer, rename

ORIGIN = "PyTorchVideo"
# Blocks of their sequence: the stem is 0, res2 is 1, pool2 (without parameters) is 2.
STAGES = {1: "res2", 3: "res3", 4: "res4", 5: "res5"}
HEAD = 6


def _rules() -> Iterator[tuple[str, str]]:
    yield from layer("blocks.0.conv", "conv1")
    yield from layer("blocks.0.norm", "norm1", BATCH_NORM)
    yield from layer(f"blocks.{HEAD}.proj", "fc", AFFINE)
    for index, stage in STAGES.items():
        theirs, ours = f"blocks.{index}.res_blocks.{{i}}", f"{stage}.block{{i}}"
        yield from layer(f"{theirs}.branch1_conv", f"{ours}.shortcut.conv")
        yield from layer(f"{theirs}.branch1_norm", f"{ours}.shortcut.norm", BATCH_NORM)
        for branch in "abc":
            yield from layer(f"{theirs}.branch2.conv_{branch}", f"{ours}.conv_{branch}")
            yield from layer(f"{theirs}.branch2.norm_{branch}", f"{ours}.norm_{branch}", BATCH_NORM)


RULES = Rules(_rules())


def translate(checkpoint: Checkpoint) -> Translated:
    """Translate a checkpoint.

    Raises:
        ValueError: it is not a C2D or I3D with a pool after res2.
    """
    if f"blocks.{HEAD}.proj.weight" not in checkpoint.tensors:
        raise ValueError(
            "it is not PyTorchVideo's C2D or I3D: no classifier after res2, a pool, res3 to res5"
        )
    result = rename(ORIGIN, checkpoint, RULES, projects=(ORIGIN,))
    result.fields = {**infer(result.tensors), "stem_padding": 1}
    released = "as in the released ones"
    result.assumed |= {"temporal_stride": (1, released), "pool2_time": (2, released)}
    result.derived |= dict.fromkeys(("mean", "std", "multi_label", "window"), released)
    result.asked["clip"] = "'8x8' for the released ones"
    return result
