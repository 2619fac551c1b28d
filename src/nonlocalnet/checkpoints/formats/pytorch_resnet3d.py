"""The I3D of pytorch-resnet3d (Tushar-N): official weights under the names of an image classifier.

Kernels have a time axis: the stem is 5x7x7. Its code fixes what the official files do not say.
"""

from __future__ import annotations

from collections.abc import Iterator

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.formats.torchvision import RULES as IMAGE_RULES
from nonlocalnet.checkpoints.infer import infer
from nonlocalnet.checkpoints.translate import AFFINE, BATCH_NORM, Rules, Translated, layer, rename
from nonlocalnet.clips import Views

ORIGIN = "pytorch-resnet3d"


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
        "temporal_stride": 2,
        "stem_padding": 0,
        "pool1_time": 2,
        "pool2_time": 2,
        "window": None,  # its head averages the whole map, whatever the crop
    }
    if result.fields["non_local"]:
        result.fields |= {
            "pairwise": "embedded_gaussian",
            "scale": "auto",
            "subsample": (1, 2, 2),
            "subsample_position": "before",
        }
    result.derived |= dict.fromkeys(("mean", "std", "multi_label"), "as its code has it")
    result.asked["clip"] = "'32x2', as its code has it"
    result.views = Views(average="logits")
    return result
