"""PyTorchVideo's plain C2D and I3D."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nonlocalnet.convert.architecture import infer
from nonlocalnet.convert.converted import COUNTER, Converted, translate
from nonlocalnet.convert.files import Checkpoint
from nonlocalnet.convert.rules import Rules

ORIGIN = "PyTorchVideo"
NORM = ("weight", "bias", "running_mean", "running_var", COUNTER)
# Blocks of their sequence: the stem is 0, res2 is 1, pool2 (without parameters) is 2.
STAGES = {1: "res2", 3: "res3", 4: "res4", 5: "res5"}
HEAD = 6


def _rules() -> Iterator[tuple[str, str]]:
    yield "blocks.0.conv.weight", "conv1.weight"
    for kind in NORM:
        yield f"blocks.0.norm.{kind}", f"norm1.{kind}"
    for index, stage in STAGES.items():
        theirs, ours = f"blocks.{index}.res_blocks.{{i}}", f"{stage}.block{{i}}"
        yield f"{theirs}.branch1_conv.weight", f"{ours}.shortcut.conv.weight"
        for branch in "abc":
            yield f"{theirs}.branch2.conv_{branch}.weight", f"{ours}.conv_{branch}.weight"
        for kind in NORM:
            yield f"{theirs}.branch1_norm.{kind}", f"{ours}.shortcut.norm.{kind}"
            for branch in "abc":
                yield f"{theirs}.branch2.norm_{branch}.{kind}", f"{ours}.norm_{branch}.{kind}"
    for kind in ("weight", "bias"):
        yield f"blocks.{HEAD}.proj.{kind}", f"fc.{kind}"


RULES = Rules(_rules())


def matches(names: Iterable[str]) -> bool:
    """Tell whether keys are of this layout."""
    return any(name.removeprefix("module.").startswith("blocks.1.res_blocks.") for name in names)


def convert(checkpoint: Checkpoint) -> Converted:
    """Put a checkpoint's parameters in our names, and tell its network.

    Raises:
        ValueError: no C2D or I3D with a pool after res2.
    """
    names = {name.removeprefix("module.") for name in checkpoint.entries}
    if f"blocks.{HEAD}.proj.weight" not in names:
        raise ValueError(
            "it is not PyTorchVideo's C2D or I3D: no classifier after res2, a pool, res3 to res5"
        )
    result = translate(ORIGIN, checkpoint, RULES)
    result.fields = {**infer(result.shapes()), "stem_padding": 1, "temporal_stride": 1}
    result.asked["clip"] = "'8x8' for the released ones"
    return result
