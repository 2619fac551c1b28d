"""MMAction2's I3D, SlowOnly and TSM: names, and the options in the configuration in its files.

Its blocks pool keys after the projections, and have no bias before a norm. Of its detectors, only
the backbone is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.formats.mmaction2_config import KINDS, Kind, apply_config, kind_of
from nonlocalnet.checkpoints.infer import infer, is_slow
from nonlocalnet.checkpoints.python_config import as_dict, read_config
from nonlocalnet.checkpoints.temporal_shift import add_time_axis, check_shift, unwrap
from nonlocalnet.checkpoints.translate import AFFINE, BATCH_NORM, Rules, Translated, layer, rename
from nonlocalnet.clips import Views

ORIGIN = "MMAction2"
MEAN = (123.675, 116.28, 103.53)  # of all its networks, on values up to 255, red first
STD = (58.395, 57.12, 57.375)
DETECTOR = r"roi_head\."


def _rules() -> Iterator[tuple[str, str]]:
    yield from layer("backbone.conv1.conv", "conv1")
    yield from layer("backbone.conv1.bn", "norm1", BATCH_NORM)
    yield from layer("cls_head.fc_cls", "fc", AFFINE)
    for stage in (2, 3, 4, 5):
        theirs, ours = f"backbone.layer{stage - 1}.{{i}}", f"res{stage}.block{{i}}"
        parts = [("downsample", "shortcut.conv", "shortcut.norm")]
        parts += [(f"conv{n}", f"conv_{x}", f"norm_{x}") for n, x in enumerate("abc", 1)]
        for part, conv, norm in parts:
            yield from layer(f"{theirs}.{part}.conv", f"{ours}.{conv}")
            yield from layer(f"{theirs}.{part}.bn", f"{ours}.{norm}", BATCH_NORM)
        theirs, ours = f"{theirs}.non_local_block", f"res{stage}.non_local{{i}}"
        yield f"{theirs}.concat_project.conv.weight", f"{ours}.w_f"
        yield from layer(f"{theirs}.theta.conv", f"{ours}.theta", AFFINE)
        for name in ("phi", "g"):  # with pooled keys the convolution is the first of two
            yield from layer(f"{theirs}.{name}.0.conv", f"{ours}.{name}", AFFINE)
            yield from layer(f"{theirs}.{name}.conv", f"{ours}.{name}", AFFINE)
        yield from layer(f"{theirs}.conv_out.conv", f"{ours}.w_z", AFFINE)
        yield from layer(f"{theirs}.conv_out.bn", f"{ours}.norm", BATCH_NORM)


RULES = Rules(_rules())
IGNORED = {
    r"data_preprocessor\..*": "normalization of the input",
    DETECTOR + ".*": "the head of a detector, which no network here has",
}


def translate(checkpoint: Checkpoint) -> Translated:
    """Translate a checkpoint.

    Raises:
        ValueError: it is another network than I3D, SlowOnly or TSM with bottlenecks.
    """
    result = rename(ORIGIN, checkpoint, RULES, projects=(ORIGIN,), ignored=IGNORED, unwrap=unwrap)
    keys = list(checkpoint.tensors)
    detector = any(re.match(DETECTOR, key) for key in keys)
    if detector:
        result.left["fc."] = "the file's roi_head.* classifies boxes, not clips, and is left out"
        result.asked["num_classes"] = "400 or another number: its classifier is of boxes"
    _complete(result)
    meta = as_dict(checkpoint.meta.get("meta"))
    text = meta.get("cfg", meta.get("config"))
    config = read_config(text) if isinstance(text, (str, bytes)) and text else None
    of_images = add_time_axis(result)
    fields = infer(result.tensors, slow=True, backbone=detector)
    if of_images:
        check_shift(keys, fields["depths"])
    kind = "ResNet3dSlowOnly" if is_slow(fields) else "ResNet3d"
    kind = kind_of(config, "ResNetTSM" if of_images else kind)
    result.fields = fields | {"stem_padding": 1, "pool1_time": 1, **KINDS[kind].fields}
    result.fields["window"] = None  # its head averages the whole map, whatever the crop
    if fields["non_local"]:
        pooled = any(re.search(r"non_local_block\.g\.0\.", key) for key in keys)
        result.fields |= {
            "subsample": (1, 2, 2) if pooled else None,
            "subsample_position": "after",
            "scale": None,
        }
    result.views = Views(rule="mmaction2")
    result.classes = _words(as_dict(meta.get("dataset_meta")).get("classes", meta.get("CLASSES")))
    result.mean, result.std = (tuple(v / 255 for v in values) for values in (MEAN, STD))
    if config is None:
        _ask(KINDS[kind], result)
    else:
        apply_config(config, KINDS[kind], result)
    return result


def _ask(kind: Kind, result: Translated) -> None:
    """Ask for and assume what a file without a configuration does not say."""
    fields = result.fields
    result.asked["clip"] = f"{kind.clip} for the released ones"
    blocks = bool(fields["non_local"])
    for name, (value, why) in kind.assumed.items():
        # only the exponents of embedded forms are scaled
        if name != "scale" or (blocks and "pairwise" not in fields):
            fields.pop(name, None)
            result.assumed[name] = (value, why)
    released = "as in its released ones"
    result.derived |= dict.fromkeys(("mean", "std", "multi_label"), released)
    if blocks and "pairwise" not in fields:
        result.asked["pairwise"] = "'embedded_gaussian' or 'dot_product'"


def _complete(result: Translated) -> None:
    """Add the parameters that its blocks lack."""
    for name in list(result.tensors):
        if match := re.fullmatch(r"(res\d\.non_local\d+)\.w_z\.weight", name):
            bias = f"{match[1]}.w_z.bias"
            if bias not in result.tensors and f"{match[1]}.norm.weight" in result.tensors:
                channels = result.tensors[name].shape[0]
                result.make_zeros(bias, channels, "zero: its blocks have no bias before a norm")
        elif name.endswith(".w_f"):
            entry = result.tensors[name]
            result.tensors[name] = entry.map((entry.shape[1],), lambda weight: weight.flatten())


def _words(names: Any) -> list[str]:
    """Return the names of classes; none if they are not all strings."""
    names = names if isinstance(names, (list, tuple)) else ()
    words = [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names]
    return words if all(isinstance(word, str) for word in words) else []
