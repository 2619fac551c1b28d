"""PySlowFast's C2D, I3D, Slow and SlowFast: names, and the options in its configurations."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.infer import FAST, infer, is_slow
from nonlocalnet.checkpoints.translate import AFFINE, BATCH_NORM, Rules, Translated, layer, rename
from nonlocalnet.errors import shown

ORIGIN = "PySlowFast"
PAIRWISE = {"softmax": "embedded_gaussian", "dot_product": "dot_product"}
SLOWFAST = "slowfast_8x8_r50"  # a network of the family
NO_POOL2 = ("c2d_nopool", "i3d_nopool", "slow_c2d", "slow_i3d", "slow", "slowfast")
# by architecture: frames that pool2 turns into one
POOL2 = {"c2d": 2, "i3d": 2, **dict.fromkeys(NO_POOL2, 1)}
PATHWAYS = ("", FAST)  # what begins our names of the slow, or only, pathway, and of the fast one
STAGES = (2, 3, 4, 5)
Refuse = Callable[[str, str, Any], NoReturn]
MAX_LENGTH = 100_000  # characters of a configuration


def _rules() -> Iterator[tuple[str, str]]:
    yield from layer("head.projection", "fc", AFFINE)
    for pathway, prefix in enumerate(PATHWAYS):
        yield from layer(f"s1.pathway{pathway}_stem.conv", f"{prefix}conv1")
        yield from layer(f"s1.pathway{pathway}_stem.bn", f"{prefix}norm1", BATCH_NORM)
        theirs, ours = f"s{{s}}.pathway{pathway}_res{{i}}", f"{prefix}res{{s}}.block{{i}}"
        yield from layer(f"{theirs}.branch1", f"{ours}.shortcut.conv")
        yield from layer(f"{theirs}.branch1_bn", f"{ours}.shortcut.norm", BATCH_NORM)
        for branch in "abc":
            yield from layer(f"{theirs}.branch2.{branch}", f"{ours}.conv_{branch}")
            yield from layer(f"{theirs}.branch2.{branch}_bn", f"{ours}.norm_{branch}", BATCH_NORM)
        theirs, ours = f"s{{s}}.pathway{pathway}_nonlocal{{i}}", f"{prefix}res{{s}}.non_local{{i}}"
        for name in ("theta", "phi", "g"):
            yield from layer(f"{theirs}.conv_{name}", f"{ours}.{name}", AFFINE)
        yield from layer(f"{theirs}.conv_out", f"{ours}.w_z", AFFINE)
        yield from layer(f"{theirs}.bn", f"{ours}.norm", BATCH_NORM)
    for theirs, ours in (("s1_fuse", "lateral.pool1"), ("s{s}_fuse", "lateral.res{s}")):
        yield from layer(f"{theirs}.conv_f2s", f"{ours}.conv")
        yield from layer(f"{theirs}.bn", f"{ours}.norm", BATCH_NORM)


RULES = Rules(_rules())


def translate(checkpoint: Checkpoint) -> Translated:
    """Translate a checkpoint.

    Raises:
        ValueError: it has an option that our networks do not have.
    """
    result = rename(ORIGIN, checkpoint, RULES, projects=(ORIGIN,))
    result.fields = {**infer(result.tensors, slow=True), "stem_padding": 1, "temporal_stride": 1}
    config = _config(checkpoint.meta.get("cfg"))
    if config is None:
        ask(result)
    else:
        _apply(config, result)
    return result


def ask(result: Translated) -> None:
    """Ask for and assume what a file without a configuration does not say.

    What differs between PySlowFast's configurations is asked for; what is the same in nearly all is
    assumed.
    """
    fields, assumed = result.fields, result.assumed
    default = "it has no configuration; this is PySlowFast's default"
    result.asked["clip"] = "'8x8' or another FRAMESxRATE"
    two_pathways = "beta" in fields
    if two_pathways:
        result.like = SLOWFAST
        result.asked["clip"] = "'32x2' or another FRAMESxRATE, that of the fast pathway"
        result.asked["alpha"] = "4 (8x8, 16x8) or 8 (4x16)"
    if two_pathways or is_slow(fields):
        fields["pool2_time"] = 1
    else:
        assumed["pool2_time"] = (2, "it has no configuration; C2D_NOPOOL needs 1")
    stages = len(fields["depths"])
    assumed["strides"] = ((1, *[2] * (stages - 1)), f"{default}, those for AVA have (1, 2, 2, 1)")
    assumed["dilations"] = ((1,) * stages, f"{default}, those for AVA have (1, 1, 1, 2)")
    result.derived |= dict.fromkeys(("mean", "std", "multi_label"), default)
    result.derived["window"] = "as PySlowFast's for such a crop"
    if fields["non_local"]:
        fields |= {"scale": "auto", "subsample_position": "before", "extent": "spacetime"}
        result.asked["pairwise"] = "'embedded_gaussian' or 'dot_product'"
        if two_pathways:
            result.asked["subsample"] = "(1, 2, 2), or (2, 2, 2) as in the networks for AVA"
        else:
            assumed["subsample"] = ((1, 2, 2), default)
        assumed["temporal_group"] = (None, f"{default}, NONLOCAL.GROUP 1")


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
    kind = "slowfast" if "beta" in fields else "slow" if is_slow(fields) else ""
    if kind != (arch if arch in ("slow", "slowfast") else ""):
        raise ValueError(f"its configuration has MODEL.ARCH {arch}, its tensors are of another")
    for section, name, value in (
        ("RESNET", "TRANS_FUNC", "bottleneck_transform"),
        ("RESNET", "STRIDE_1X1", False),
        ("RESNET", "NUM_GROUPS", 1),
    ):
        if (given := get(section, name, value)) != value:
            refuse(section, name, given)
    fields["pool2_time"] = POOL2[arch]
    for name, key, default in (
        ("SPATIAL_STRIDES", "strides", (1, 2, 2, 2)),
        ("SPATIAL_DILATIONS", "dilations", (1, 1, 1, 1)),
    ):
        fields[key] = _of_each_stage(get("RESNET", name), default, partial(refuse, "RESNET", name))
    frames, rate = get("DATA", "NUM_FRAMES"), get("DATA", "SAMPLING_RATE")
    if type(frames) is int and type(rate) is int:
        result.clip = f"{frames}x{rate}"
    else:
        result.asked["clip"] = "'8x8' or another FRAMESxRATE"
    if arch == "slowfast":
        result.like = SLOWFAST
        fields["alpha"] = _number(get("SLOWFAST", "ALPHA"), 8)
    result.crop = _number(get("DATA", "TRAIN_CROP_SIZE"), 224)
    result.short_side = _number(get("DATA", "TEST_CROP_SIZE"), 256)
    result.mean = _three(get("DATA", "MEAN"), result.mean)
    result.std = _three(get("DATA", "STD"), result.std)
    result.multi_label = bool(get("DATA", "MULTI_LABEL")) or get("MODEL", "HEAD_ACT") == "sigmoid"
    if get("DATA", "REVERSE_INPUT_CHANNEL"):
        result.swap_colors()
    if get("DETECTION", "ENABLE"):
        result.leave_classifier("its head classifies boxes, not clips")
    else:
        fields["window"] = max(result.crop // 32, 1)
    if fields["non_local"]:
        form = get("NONLOCAL", "INSTANTIATION", "dot_product")
        if form not in PAIRWISE:
            refuse("NONLOCAL", "INSTANTIATION", form)
        fields |= {"scale": "auto", "subsample_position": "before", "extent": "spacetime"}
        fields["pairwise"] = PAIRWISE[form]
        fields["subsample"] = _pools(get("NONLOCAL", "POOL"), fields, refuse)
        fields["temporal_group"] = _groups(get("NONLOCAL", "GROUP"), frames, fields, refuse)
    _check_places(get("NONLOCAL", "LOCATION"), result, refuse)


def _of_each_stage(
    given: Any, default: tuple[int, ...], refuse: Callable[[Any], NoReturn]
) -> tuple[int, ...]:
    """Read a number for each stage, from lists of the numbers of its pathways, which are equal."""
    if given is None:
        return default
    if not isinstance(given, list) or len(given) != len(STAGES):
        refuse(given)
    if not all(isinstance(of, list) and of and set(map(str, of)) == {str(of[0])} for of in given):
        refuse(given)
    if not all(type(of[0]) is int and 0 < of[0] < MAX_LENGTH for of in given):
        refuse(given)
    return tuple(of[0] for of in given)


def _of_blocks(
    given: Any, fields: Mapping[str, Any], refuse: Callable[[Any], NoReturn]
) -> dict[str, Any]:
    """Read the settings of the stages with blocks, from a list of each stage's pathways."""
    try:
        return {
            stage: given[int(stage[-1]) - STAGES[0]][stage.startswith(FAST)]
            for stage in fields["non_local"]
        }
    except (TypeError, IndexError, KeyError):
        refuse(given)


def _pools(given: Any, fields: Mapping[str, Any], refuse: Refuse) -> Any:
    """Read NONLOCAL.POOL: one pooling of keys for all blocks, or each stage's by name."""
    if given is None:
        return (1, 2, 2)
    pools = _of_blocks(given, fields, partial(refuse, "NONLOCAL", "POOL"))
    for pool in pools.values():
        if not isinstance(pool, list) or not all(type(k) is int and k > 0 for k in pool):
            refuse("NONLOCAL", "POOL", given)
        if len(pool) != 3:
            refuse("NONLOCAL", "POOL", given)
    read = {stage: tuple(pool) if max(pool) > 1 else None for stage, pool in pools.items()}
    return next(iter(read.values())) if len(set(read.values())) == 1 else read


def _groups(
    given: Any, frames: Any, fields: Mapping[str, Any], refuse: Refuse
) -> dict[str, int] | None:
    """Read NONLOCAL.GROUP, a number of groups, as frames of a group: of each stage that has some.

    Raises:
        ValueError: the frames of a stage cannot be divided into its groups.
    """
    if given is None:
        return None
    found = {}
    for stage, count in _of_blocks(given, fields, partial(refuse, "NONLOCAL", "GROUP")).items():
        if type(count) is not int or count < 1:
            refuse("NONLOCAL", "GROUP", given)
        if count == 1:
            continue
        if type(frames) is not int:
            raise ValueError("its configuration has temporal groups but not the number of frames")
        own = frames_of(stage, frames, fields)
        if own % count:
            raise ValueError(
                f"its configuration has NONLOCAL.GROUP {count} in {stage}, which must divide its "
                f"{own} frames"
            )
        found[stage] = own // count
    return found or None


def frames_of(stage: str, frames: int, fields: Mapping[str, Any]) -> int:
    """Count the frames of a stage's features, for a clip of so many frames."""
    own = frames if stage.startswith(FAST) else frames // fields.get("alpha", 1)
    return own if stage.endswith("res2") else own // fields["pool2_time"]


def _check_places(given: Any, result: Translated, refuse: Refuse) -> None:
    """Compare the places of blocks in a configuration with those of the tensors.

    Raises:
        ValueError: they differ, so tensors are missing or the configuration is another network's.
    """
    if given is None:
        return
    stated = {}
    try:
        for stage, pathways in zip(STAGES, given, strict=True):
            for prefix, places in zip(PATHWAYS, pathways, strict=False):
                if places:
                    stated[f"{prefix}res{stage}"] = tuple(sorted(places))
    except (TypeError, ValueError):
        refuse("NONLOCAL", "LOCATION", given)
    if stated != (found := result.fields["non_local"]):
        raise ValueError(
            f"its configuration has non-local blocks after {shown(stated)}, its tensors after "
            f"{shown(found)}"
        )
    result.stated = ("non_local",)


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
