"""PySlowFast's C2D and I3D: names, and the options in the configuration in its files."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.resolve import infer
from nonlocalnet.checkpoints.translate import AFFINE, BATCH_NORM, Rules, Translated, layer, rename
from nonlocalnet.clips import MEAN, STD, ClipSpec

ORIGIN = "PySlowFast"
PAIRWISE = {"softmax": "embedded_gaussian", "dot_product": "dot_product"}
POOL2 = {"c2d": 2, "i3d": 2, "c2d_nopool": 1, "i3d_nopool": 1}  # by architecture: frames to one
Refuse = Callable[[str, str, Any], NoReturn]
MAX_LENGTH = 100_000  # characters of a configuration


def _rules() -> Iterator[tuple[str, str]]:
    yield from layer("s1.pathway0_stem.conv", "conv1")
    yield from layer("s1.pathway0_stem.bn", "norm1", BATCH_NORM)
    yield from layer("head.projection", "fc", AFFINE)
    theirs, ours = "s{s}.pathway0_res{i}", "res{s}.block{i}"
    yield from layer(f"{theirs}.branch1", f"{ours}.shortcut.conv")
    yield from layer(f"{theirs}.branch1_bn", f"{ours}.shortcut.norm", BATCH_NORM)
    for branch in "abc":
        yield from layer(f"{theirs}.branch2.{branch}", f"{ours}.conv_{branch}")
        yield from layer(f"{theirs}.branch2.{branch}_bn", f"{ours}.norm_{branch}", BATCH_NORM)
    theirs, ours = "s{s}.pathway0_nonlocal{i}", "res{s}.non_local{i}"
    for name in ("theta", "phi", "g"):
        yield from layer(f"{theirs}.conv_{name}", f"{ours}.{name}", AFFINE)
    yield from layer(f"{theirs}.conv_out", f"{ours}.w_z", AFFINE)
    yield from layer(f"{theirs}.bn", f"{ours}.norm", BATCH_NORM)


RULES = Rules(_rules())


def translate(checkpoint: Checkpoint) -> Translated:
    """Translate a checkpoint.

    Raises:
        ValueError: it has two pathways, or an option that our networks do not have.
    """
    if any("pathway1_" in name for name in checkpoint.tensors):
        raise ValueError("it is a SlowFast network, of two pathways: not among the paper's")
    result = rename(ORIGIN, checkpoint, RULES)
    result.fields = {**infer(result.tensors), "stem_padding": 1}
    config = _config(checkpoint.meta.get("cfg"))
    if config is None:
        result.asked["clip"] = "'8x8' or another FRAMESxRATE"
        result.assumed["pool2_time"] = (2, "it has no configuration; C2D_NOPOOL needs 1")
        default = "it has no configuration; this is PySlowFast's default"
        result.derived |= dict.fromkeys(("mean", "std", "multi_label"), default)
        result.derived["window"] = "as PySlowFast's for such a crop"
        result.fields["temporal_stride"] = 1
        if result.fields["non_local"]:
            result.asked["pairwise"] = "'embedded_gaussian' or 'dot_product'"
            result.assumed["subsample"] = ((1, 2, 2), default)
    else:
        _apply(config, result)
    return result


def _config(text: Any) -> dict[str, Any] | None:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if not isinstance(text, str):
        return None
    import yaml

    try:
        config = yaml.safe_load(text) if len(text) <= MAX_LENGTH else None
    except Exception:  # tags make Python objects, and fail in any way
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("MODEL"), dict):
        raise ValueError("its configuration cannot be read")
    return config


def _apply(config: Mapping[str, Any], result: Translated) -> None:
    """Read from a configuration what shapes do not show; refuse what our networks do not have."""

    def get(section: str, name: str, default: Any = None) -> Any:
        values = config.get(section)
        return values.get(name, default) if isinstance(values, dict) else default

    def refuse(section: str, name: str, value: Any) -> NoReturn:
        said = f"{section}.{name} = {reprlib.repr(value)[:80]}"
        raise ValueError(f"its configuration has {said}, which is not supported")

    fields = result.fields
    arch = get("MODEL", "ARCH")
    if arch not in POOL2:
        refuse("MODEL", "ARCH", arch)
    for section, name, value in (
        ("RESNET", "TRANS_FUNC", "bottleneck_transform"),
        ("RESNET", "STRIDE_1X1", False),
        ("RESNET", "NUM_GROUPS", 1),
        ("RESNET", "SPATIAL_STRIDES", [[1], [2], [2], [2]]),
        ("RESNET", "SPATIAL_DILATIONS", [[1], [1], [1], [1]]),
        ("DETECTION", "ENABLE", False),
    ):
        if (given := get(section, name, value)) != value:
            refuse(section, name, given)
    fields["pool2_time"] = POOL2[arch]
    frames, rate = get("DATA", "NUM_FRAMES"), get("DATA", "SAMPLING_RATE")
    if type(frames) is int and type(rate) is int:
        result.clip = f"{frames}x{rate}"
    else:
        result.asked["clip"] = "'8x8' or another FRAMESxRATE"
    fields["temporal_stride"] = 1
    result.crop = _number(get("DATA", "TRAIN_CROP_SIZE"), 224)
    result.short_side = _number(get("DATA", "TEST_CROP_SIZE"), 256)
    result.mean = _three(get("DATA", "MEAN"), result.mean)
    result.std = _three(get("DATA", "STD"), result.std)
    result.multi_label = bool(get("DATA", "MULTI_LABEL")) or get("MODEL", "HEAD_ACT") == "sigmoid"
    if get("DATA", "REVERSE_INPUT_CHANNEL"):
        result.swap_colors()
    if fields["non_local"]:
        form = get("NONLOCAL", "INSTANTIATION", "dot_product")
        if form not in PAIRWISE:
            refuse("NONLOCAL", "INSTANTIATION", form)
        fields["pairwise"] = PAIRWISE[form]
        fields["subsample"] = _one(get("NONLOCAL", "POOL"), fields, refuse, "POOL", (1, 2, 2))
        groups = _one(get("NONLOCAL", "GROUP"), fields, refuse, "GROUP", 1)
        if groups != 1:
            refuse("NONLOCAL", "GROUP", get("NONLOCAL", "GROUP"))


def _one(stages: Any, fields: Mapping[str, Any], refuse: Refuse, name: str, default: Any) -> Any:
    """Return the setting that all stages with blocks share, from lists of (stage, pathway)."""
    if stages is None:
        return default
    try:
        values = [stages[int(stage[3:]) - 2][0] for stage in fields["non_local"]]
        if any(value != values[0] for value in values):
            raise ValueError
        if name == "POOL":
            return tuple(map(int, values[0])) if max(values[0]) > 1 else None
        return int(values[0])
    except (ValueError, TypeError, IndexError, KeyError):
        refuse("NONLOCAL", name, stages)


def _number(value: Any, default: int) -> int:
    return value if type(value) is int and value > 0 else default


def _three(values: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        return default
    try:
        colors = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        colors = ()
    if len(colors) not in (1, 3):
        raise ValueError(
            f"its configuration normalizes by {reprlib.repr(values)}, not by three colors"
        )
    return colors * 3 if len(colors) == 1 else colors


def export(
    arguments: Mapping[str, Any],
    state: Mapping[str, LazyTensor],
    clip: str,
    *,
    short_side: int = 256,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    multi_label: bool = False,
) -> dict[str, Any]:
    """Translate a network to PySlowFast's format, as its `save_checkpoint` writes it.

    Args:
        arguments: all of `VideoResNet`, and the training crop.
        state: its tensors, by our names.
        clip: FRAMESxRATE.
        short_side, mean, std, multi_label: of its input and its classes.

    Returns:
        {"epoch", "model_state", "optimizer_state", "cfg"}; model_state holds `LazyTensor`.

    Raises:
        ValueError: PySlowFast's C2D and I3D have no such option.
    """
    width = arguments["conv1_channels"]
    needed = {
        "stem_padding": 1,
        "temporal_stride": 1,
        "norm": "batch",
        "conv1_kernel": [arguments["conv1_kernel"][0], 7],
        "widths": [width * factor for factor in (1, 2, 4, 8)],
        "subsample_position": "before",
        "extent": "spacetime",
        "temporal_group": None,
        "scale": "auto",
        "bias": True,
        "window": arguments["crop"] // 32,
    }
    for name, value in needed.items():
        if (given := arguments[name]) != value and _list(given) != _list(value):
            raise ValueError(f"PySlowFast's networks have {name}={value!r}; this one {given!r}")
    forms = {ours: theirs for theirs, ours in PAIRWISE.items()}
    if arguments["non_local"] and arguments["pairwise"] not in forms:
        raise ValueError(f"PySlowFast has {' and '.join(forms)}; this is {arguments['pairwise']}")
    arch = "i3d" if arguments["conv1_kernel"][0] > 1 else "c2d"
    if arguments["pool2_time"] == 1:
        arch += "_nopool"
    layers = 3 * sum(arguments["depths"]) + 2
    if layers not in (50, 101):
        raise ValueError(f"PySlowFast has ResNet-50 and -101; this network has {layers} layers")
    if any(k > 1 for stage in arguments["kernels_b"] or () for k in stage):
        raise ValueError("PySlowFast's I3D has its temporal kernels in the first convolution")
    names = {name: RULES.to_theirs(name) for name in state}
    if unknown := [name for name, theirs in names.items() if theirs is None]:
        raise ValueError(f"PySlowFast's networks have nothing like {unknown[0]}")
    import yaml

    spec = ClipSpec.parse(clip)
    places = [list(arguments["non_local"].get(f"res{s}", ())) for s in (2, 3, 4, 5)]
    pool = list(arguments["subsample"] or (1, 1, 1))
    config = {
        "DATA": {
            "NUM_FRAMES": spec.frames,
            "SAMPLING_RATE": spec.rate,
            "INPUT_CHANNEL_NUM": [3],
            "TRAIN_CROP_SIZE": arguments["crop"],
            "TEST_CROP_SIZE": short_side,
            "MEAN": list(mean),
            "STD": list(std),
            "MULTI_LABEL": multi_label,
        },
        "RESNET": {
            "DEPTH": layers,
            "NUM_GROUPS": 1,
            "WIDTH_PER_GROUP": width,
            "TRANS_FUNC": "bottleneck_transform",
            "STRIDE_1X1": False,
        },
        "NONLOCAL": {
            "LOCATION": [[stage] for stage in places],
            "GROUP": [[1]] * 4,
            "INSTANTIATION": forms.get(arguments["pairwise"], "softmax"),
            "POOL": [[pool]] * 4,
        },
        "MODEL": {
            "ARCH": arch,
            "MODEL_NAME": "ResNet",
            "NUM_CLASSES": arguments["num_classes"],
            "DROPOUT_RATE": arguments["dropout"],
            "HEAD_ACT": "sigmoid" if multi_label else "softmax",
        },
    }
    return {
        "epoch": 0,
        "model_state": {names[name]: entry for name, entry in state.items()},
        "optimizer_state": {},
        "cfg": yaml.safe_dump(config),
    }


def _list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
