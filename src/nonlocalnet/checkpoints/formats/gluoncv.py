"""GluonCV's I3D, plain and with five or ten blocks: files of its torch and of its MXNet models.

Blocks are embedded Gaussian, scaled, with all keys. The stem strides over time whatever the clip.
A file has no configuration, and some tensors under two names.
"""

from __future__ import annotations

from collections.abc import Iterator

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.formats.torchvision import MEAN, STD
from nonlocalnet.checkpoints.infer import infer
from nonlocalnet.checkpoints.translate import AFFINE, BATCH_NORM, Rules, Translated, layer, rename

ORIGIN = "GluonCV"
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
        "temporal_stride": 2,
        "stem_padding": 1,
        "pool1_time": 1,
        "pool2_time": 2,
        "window": None,  # its head averages the whole map, whatever the crop
    }
    if result.fields["non_local"]:
        result.fields |= {"pairwise": "embedded_gaussian", "scale": "auto", "subsample": None}
    result.mean, result.std = MEAN, STD
    released = "as in the released ones"
    result.derived |= dict.fromkeys(("mean", "std", "multi_label"), released)
    result.asked["clip"] = "'32x2' for the released ones"
    return result
