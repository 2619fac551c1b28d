"""Arguments of `VideoResNet` and of classes made from it: from a name and options, and back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from nonlocalnet.clips import ClipSpec
from nonlocalnet.errors import check_choice
from nonlocalnet.networks.families import VIDEO, Family
from nonlocalnet.networks.registry import find_row, table
from nonlocalnet.networks.video_resnet import VideoResNet, of_stages

BUILD = ".networks.arguments:build"  # of the families whose fields are these arguments
STRUCTURE = {
    "depths",
    "widths",
    "conv1_channels",
    "conv1_kernel",
    "kernels_a",
    "kernels_b",
    "shift_div",
    "fast_conv1_kernel",
    "fast_kernels_a",
    "non_local",
}
LONG_CLIP_GROUP = 4  # frames; official code, with frozen norm and in res3 only

CLIP = "8x8"  # of rows that name none


@cache
def defaults_of(network: type[VideoResNet]) -> dict[str, Any]:
    """Return the arguments of a class, those of its parents among them, and their defaults."""
    found: dict[str, Any] = {}
    for parent in reversed(network.__mro__[: network.__mro__.index(VideoResNet) + 1]):
        for name, parameter in inspect.signature(parent).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY and name != "joined":
                found[name] = parameter.default
    return found


DEFAULTS = defaults_of(VideoResNet)


def build(
    name: str,
    fields: Mapping[str, Any],
    *,
    num_classes: int = 400,
    clip: str | None = None,
    crop: int = 224,
    **options: Any,
) -> VideoResNet:
    """Build a network; arguments are those of `create_model`, and the row's fields.

    A row may name its own "clip"; others are for 8x8.

    Raises:
        ValueError: as `create_model`.
    """
    network = find_row(name).family.load("network")
    clip = clip or fields.get("clip", CLIP)
    arguments = _resolve(network, fields, clip=clip, crop=crop, **options)
    model = network(num_classes=num_classes, **arguments)
    model.config = {"name": name, "num_classes": num_classes, "clip": clip, "crop": crop, **options}
    model.arguments = defaults_of(network) | arguments | {"num_classes": num_classes}
    return model


def resolve(
    name: str, *, clip: str | None = None, crop: int = 224, **options: Any
) -> dict[str, Any]:
    """Find the arguments of the network's class that `create_model` passes, but for num_classes.

    Raises:
        ValueError: as `create_model`; the name is not that of a `VideoResNet`.
    """
    row = find_row(name)
    if not is_ours(row.family):
        raise ValueError(f"{name} is no VideoResNet")
    network, clip = row.family.load("network"), clip or row.fields.get("clip", CLIP)
    return _resolve(network, row.fields, clip=clip, crop=crop, **options)


def is_ours(family: Family) -> bool:
    """Tell whether a family's networks are of `VideoResNet` or of a class made from it."""
    return family.places["build"] == BUILD


def describe(
    fields: Mapping[str, Any], *, clip: str, crop: int, family: Family = VIDEO
) -> dict[str, Any]:
    """Find the row of the table, and the fewest options over it, that make a network.

    Args:
        fields: arguments of the family's class; what is not among them is left to the row.
        clip, crop: as in `create_model`.
        family: of the network.

    Returns:
        The arguments of `create_model`, of plain values only.

    >>> describe({"depths": (3, 4, 6, 3), "conv1_kernel": (1, 7), "shift_div": None, "scale": None},
    ...          clip="8x8", crop=224)
    {'name': 'c2d_r50', 'clip': '8x8', 'crop': 224, 'scale': None}
    """
    network = family.load("network")
    defaults = defaults_of(network)
    for option in fields:
        check_choice("option", option, defaults)
    best: tuple[tuple[int, int], str, dict[str, Any]] | None = None
    norm = fields.get("norm", "batch")
    determining = {key: fields[key] for key in ("strides", "stem_padding") if key in fields}
    for name, found in table().items():
        if not is_ours(found.family) or found.family.places["network"] != family.places["network"]:
            continue
        resolve_row = partial(_resolve, network, found.fields, clip=clip, crop=crop, norm=norm)
        # arguments that others determine are those of the network, not of the row
        row = defaults | resolve_row(**determining)
        row |= {key: (defaults | resolve_row())[key] for key in determining}
        options = {
            key: value
            for key, value in fields.items()
            if key not in ("num_classes", "norm")
            and normal(key, value, norm) != normal(key, row[key], norm)
        }
        # a row's structure makes its name: rather three other options than other kernels
        distance = len(STRUCTURE & options.keys()), len(options)
        if best is None or distance < best[0]:
            best = distance, name, options
    assert best is not None, "the table is empty"
    _, name, options = best
    if norm != find_row(name).fields.get("norm", "batch"):
        options["norm"] = norm
    classes = {"num_classes": fields["num_classes"]} if "num_classes" in fields else {}
    return {"name": name, **classes, "clip": clip, "crop": crop, **_plain(options)}


def _resolve(
    network: type[VideoResNet], row: Mapping[str, Any], *, clip: str, crop: int, **options: Any
) -> dict[str, Any]:
    spec = ClipSpec.parse(clip)
    for option in options:
        check_choice("option", option, [k for k in defaults_of(network) if k != "num_classes"])
    row = {key: value for key, value in row.items() if key != "clip"} | options
    dense = spec.frames >= 32 and spec.rate is not None and spec.rate <= 2
    stages = len(row["depths"])
    fields: dict[str, Any] = {
        "temporal_stride": 2 if dense else 1,
        "strides": (1, *[2] * (stages - 1)),
        "dilations": (1,) * stages,
    }
    if row.get("norm") == "frozen" and row.get("extent", "spacetime") == "spacetime":
        fields["temporal_group"] = LONG_CLIP_GROUP
    if row.get("extent") == "time":
        fields["subsample"] = None  # it would pool places, which are apart in this extent
    if row.get("extent") == "causal":  # no position sees a later frame, so frames stay apart
        fields |= {"temporal_stride": 1, "pool2_time": 1}
    fields |= row
    padding, strides = fields.get("stem_padding", 0), fields["strides"]
    return {"window": _last_side(crop, strides, padding)} | fields


def normal(key: str, value: Any, norm: str = "batch") -> Any:
    """Write equal values in one way: no kernels are kernels of 1, "auto" is what it means."""
    if key in ("kernels_a", "kernels_b", "fast_kernels_a"):
        ones = value is None or all(k == 1 for stage in value for k in stage)
        return None if ones else _plain(value)
    if key == "block_norm" and value == "auto":
        return "batch" if norm == "batch" else None
    if key == "temporal_group":
        return {stage: frames for stage, frames in of_stages(value, "res3").items() if frames}
    if key == "non_local":
        return {stage: sorted(places) for stage, places in (value or {}).items() if places}
    return _plain(value)


def _plain(value: Any) -> Any:
    """Turn tuples into lists, as in JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _last_side(crop: int, strides: Sequence[int], stem_padding: int) -> int:
    """Follow a crop's side to the last feature map: conv1, pool1, then all stages."""
    side = (-(-crop // 2) + 2 * stem_padding - 3) // 2 + 1
    for stride in strides:
        side = -(-side // stride)
    return max(side, 1)
