"""MMAction2's I3D: names, and the options in the Python configuration in its files.

Its blocks pool keys after the projections, do not scale, and have no bias before a norm.
"""

from __future__ import annotations

import ast
import re
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.infer import infer
from nonlocalnet.checkpoints.translate import AFFINE, BATCH_NORM, Rules, Translated, layer, rename
from nonlocalnet.errors import shown

ORIGIN = "MMAction2"
MEAN = (123.675, 116.28, 103.53)  # of all its I3D, on values up to 255, red first
STD = (58.395, 57.12, 57.375)
# Options of a backbone that our networks have too; other values are refused.
BACKBONE = {
    "type": "ResNet3d",
    "style": "pytorch",
    "num_stages": 4,
    "with_pool1": True,
    "conv1_stride_s": 2,
    "pool1_stride_s": 2,
    "spatial_strides": (1, 2, 2, 2),
    "temporal_strides": (1, 1, 1, 1),
    "dilations": (1, 1, 1, 1),
}
MAX_LENGTH = 100_000  # characters of a configuration
NORM_EPS = 1e-5
PLACES = ("data_root", "ann_file")  # of its data


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
IGNORED = {r"data_preprocessor\..*": "normalization of the input"}


def translate(checkpoint: Checkpoint) -> Translated:
    """Translate a checkpoint.

    Raises:
        ValueError: it is another network than I3D with bottlenecks.
    """
    result = rename(ORIGIN, checkpoint, RULES, projects=(ORIGIN,), ignored=IGNORED)
    stem = result.tensors.get("conv1.weight")
    if stem is not None and len(stem.shape) == 4:
        raise ValueError("it is one of MMAction2's 2-D networks (TSN, TSM, C2D): only its I3D fits")
    keys = list(checkpoint.tensors)
    _complete(result)
    fields = result.fields = {
        **infer(result.tensors),
        "stem_padding": 1,
        "pool1_time": 1,
        "window": None,  # its head averages the whole map, whatever the crop
    }
    if fields["non_local"]:
        pooled = any(re.search(r"non_local_block\.g\.0\.", key) for key in keys)
        fields |= {
            "subsample": (1, 2, 2) if pooled else None,
            "subsample_position": "after",
            "scale": None,
        }
    meta = _dict(checkpoint.meta.get("meta"))
    text = meta.get("cfg", meta.get("config"))
    result.classes = _words(_dict(meta.get("dataset_meta")).get("classes", meta.get("CLASSES")))
    result.mean, result.std = (tuple(v / 255 for v in values) for values in (MEAN, STD))
    if isinstance(text, (str, bytes)) and text:
        _apply(_config(text), result)
    else:
        _ask(result)
    return result


def _ask(result: Translated) -> None:
    """Ask for and assume what a file without a configuration does not say."""
    fields = result.fields
    result.asked["clip"] = "'32x2' for the released ones"
    result.assumed["temporal_stride"] = (2, "as in its I3D; its 'heavy' ones need 1")
    released = "as in its released I3D"
    result.assumed["pool2_time"] = (2, released)
    result.derived |= dict.fromkeys(("mean", "std", "multi_label"), released)
    if fields["non_local"] and "pairwise" not in fields:
        result.asked["pairwise"] = "'embedded_gaussian' or 'dot_product'"
        del fields["scale"]
        result.assumed["scale"] = (None, released)


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


def _apply(config: Mapping[str, Any], result: Translated) -> None:
    backbone = _dict(_dict(config.get("model")).get("backbone"))
    for name, value in BACKBONE.items():
        given = backbone.get(name, value)
        if given is not value and _tuple(given) != value:
            said = reprlib.repr(given)
            raise ValueError(f"its configuration has {name}={said}, which is not supported")
    eps = _dict(backbone.get("norm_cfg")).get("eps", NORM_EPS)
    if eps != NORM_EPS:
        raise ValueError(f"its norms have eps={shown(eps)}, not {NORM_EPS}: not supported")
    # before its configurations named conv1_kernel, both strides were 2 by default, later 1
    default = 1 if "conv1_kernel" in backbone else 2
    names = [f"{name}_stride_t" for name in ("conv1", "pool1")]
    strides = [backbone.get(name, default) for name in names]
    if strides not in ([1, 1], [2, 2]):
        said = reprlib.repr(strides)
        raise ValueError(f"its temporal strides {said} are not both 1 or both 2: not supported")
    fields = result.fields
    fields["temporal_stride"] = strides[0]
    if not set(names) & set(backbone):
        result.derived["temporal_stride"] = "its configuration leaves it to its version's default"
    fields["pool2_time"] = 2 if backbone.get("with_pool2", True) else 1
    block = _dict(backbone.get("non_local_cfg"))
    if fields["non_local"]:
        form = block.get("mode", "embedded_gaussian")
        if "pairwise" in fields and form != fields["pairwise"]:
            said = reprlib.repr(form)
            raise ValueError(f"its configuration says {said}, its tensors {fields['pairwise']}")
        fields["pairwise"] = form
        if form == "embedded_gaussian":
            fields["scale"] = "auto" if block.get("use_scale", True) else None
    head = _dict(_dict(config.get("model")).get("cls_head"))
    result.multi_label = bool(head.get("multi_class"))
    normal = _normalization(config)
    if "mean" in normal and "std" in normal:
        result.mean = tuple(float(v) / 255 for v in normal["mean"])
        result.std = tuple(float(v) / 255 for v in normal["std"])
    else:
        why = "as in its released I3D; its configuration does not say it"
        result.derived |= dict.fromkeys(("mean", "std"), why)
    places = [v for k, v in config.items() if isinstance(v, str) and k.startswith(PLACES)]
    if any(re.search(r"kinetics[-_]?400", place) for place in places):
        result.dataset = "Kinetics-400"
    if normal.get("to_bgr"):
        result.swap_colors()
    pipeline = _dict_of_steps(config)
    sample = pipeline.get("SampleFrames", {})
    frames, rate = sample.get("clip_len"), sample.get("frame_interval")
    if type(frames) is int and type(rate) is int:
        result.clip = f"{frames}x{rate}"
    else:
        result.asked["clip"] = "'32x2' for the released ones"
    crop = pipeline.get("ThreeCrop", pipeline.get("CenterCrop", {})).get("crop_size")
    if type(crop) is int:
        result.short_side = crop


def _normalization(config: Mapping[str, Any]) -> dict[str, Any]:
    preprocessor = _dict(_dict(config.get("model")).get("data_preprocessor"))
    return preprocessor or _dict(config.get("img_norm_cfg"))


def _dict_of_steps(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the steps of the test pipeline, or else the training pipeline, by type."""
    for name in ("test_pipeline", "val_pipeline", "train_pipeline"):
        steps = config.get(name)
        if isinstance(steps, list):
            return {
                step["type"]: step
                for step in steps
                if isinstance(step, dict) and isinstance(step.get("type"), str)
            }
    return {}


def _words(names: Any) -> list[str]:
    """Return the names of classes; none if they are not all strings."""
    names = names if isinstance(names, (list, tuple)) else ()
    words = [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names]
    return words if all(isinstance(word, str) for word in words) else []


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _config(text: str | bytes) -> dict[str, Any]:
    """Read the assignments in a Python configuration as data, without running it."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError
        statements = ast.parse(text).body
        config: dict[str, Any] = {}
        for statement in statements:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                config[statement.targets[0].id] = _value(statement.value, config)
        return config
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("its configuration cannot be read") from None


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Evaluate literals, dict(...) and names assigned before; anything else is None."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_value(item, names) for item in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _value(key, names) for key in node.keys]
        return _merge(keys, [_value(item, names) for item in node.values])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        keys = [keyword.arg for keyword in node.keywords]
        return _merge(keys, [_value(keyword.value, names) for keyword in node.keywords])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, names)
        return -value if isinstance(value, (int, float)) else None
    return None


def _merge(keys: list[Any], values: list[Any]) -> dict[Any, Any]:
    """Make a dict of pairs; a key of None stands for `**value`."""
    result: dict[Any, Any] = {}
    for key, value in zip(keys, values, strict=True):
        if key is None:
            result.update(_dict(value))
        elif isinstance(key, (str, int, float)):
            result[key] = value
    return result
