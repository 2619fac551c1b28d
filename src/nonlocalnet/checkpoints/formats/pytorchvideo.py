"""PyTorchVideo's plain C2D and I3D."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nonlocalnet.checkpoints.converted import Converted, translate
from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.infer import infer
from nonlocalnet.checkpoints.rules import AFFINE, BATCH_NORM, Rules, layer

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


def matches(names: Iterable[str]) -> bool:
    """Tell whether keys are of this layout."""
    return any(name.startswith("blocks.1.res_blocks.") for name in names)


def convert(checkpoint: Checkpoint) -> Converted:
    """Put a checkpoint's parameters in our names, and tell its network.

    Raises:
        ValueError: no C2D or I3D with a pool after res2.
    """
    if f"blocks.{HEAD}.proj.weight" not in checkpoint.entries:
        raise ValueError(
            "it is not PyTorchVideo's C2D or I3D: no classifier after res2, a pool, res3 to res5"
        )
    result = translate(ORIGIN, checkpoint, RULES)
    result.fields = {**infer(result.shapes()), "stem_padding": 1}
    released = "as in the released ones"
    result.assumed |= {"temporal_stride": (1, released), "pool2_time": (2, released)}
    result.derived |= dict.fromkeys(("mean", "std", "multi_label", "window"), released)
    result.asked["clip"] = "'8x8' for the released ones"
    return result
