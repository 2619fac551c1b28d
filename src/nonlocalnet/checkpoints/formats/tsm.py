"""TSM's own files: a 2-D ResNet whose convolutions and blocks are wrapped, inside `base_model`.

Its blocks are embedded Gaussian without scale, and pool keys after the projections. The number of
frames and the share of shifted channels are in the file's name alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.formats.torchvision import MEAN, STD
from nonlocalnet.checkpoints.formats.torchvision import RULES as IMAGE_RULES
from nonlocalnet.checkpoints.infer import infer
from nonlocalnet.checkpoints.temporal_shift import add_time_axis, check_shift, unwrap
from nonlocalnet.checkpoints.translate import AFFINE, BATCH_NORM, Rules, Translated, layer, rename
from nonlocalnet.clips import Views

ORIGIN = "TSM (temporal-shift-module)"
BASE = "base_model."


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
        "temporal_stride": 1,
        "stem_padding": 1,
        "pool1_time": 1,
        "pool2_time": 1,
        "window": None,  # its head averages the whole map, whatever the crop
    }
    check_shift(checkpoint.tensors, result.fields["depths"])
    if result.fields["non_local"]:
        pooled = any(re.search(r"\.nl\.g\.0\.", key) for key in checkpoint.tensors)
        result.fields |= {
            "pairwise": "embedded_gaussian",
            "scale": None,
            "subsample": (1, 2, 2) if pooled else None,
            "subsample_position": "after",
        }
    del result.fields["shift_div"]
    result.assumed["shift_div"] = (8, "as in the released ones; only a file's name says it")
    result.asked["clip"] = "'8x8' (dense clips) or '8seg' (segments), as the file's name says"
    result.mean, result.std = MEAN, STD
    result.derived |= dict.fromkeys(("mean", "std", "multi_label"), "as in the released ones")
    result.views = Views(rule="tsm", average="logits")
    return result
