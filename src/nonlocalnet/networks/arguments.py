"""Arguments of `VideoResNet`: from a name and options, and back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from nonlocalnet.clips import ClipSpec
from nonlocalnet.errors import check_choice
from nonlocalnet.networks.registry import find_row, table
from nonlocalnet.networks.video_resnet import VideoResNet

BUILD = ".networks.arguments:build"  # of the families whose fields are these arguments
STRUCTURE = {
    "depths",
    "widths",
    "conv1_channels",
    "conv1_kernel",
    "kernels_a",
    "kernels_b",
    "shift_div",
    "non_local",
}
LONG_CLIP_GROUP = 4  # frames; official code, with frozen norm and in res3 only

DEFAULTS = {k: p.default for k, p in inspect.signature(VideoResNet).parameters.items()}


def build(
    name: str,
    fields: Mapping[str, Any],
    *,
    num_classes: int = 400,
    clip: str = "8x8",
    crop: int = 224,
    **options: Any,
) -> VideoResNet:
    """Build a `VideoResNet`; arguments are those of `create_model`, and the row's fields.

    Raises:
        ValueError: as `create_model`.
    """
    arguments = _resolve(fields, clip=clip, crop=crop, **options)
    model = VideoResNet(num_classes=num_classes, **arguments)
    model.config = {"name": name, "num_classes": num_classes, "clip": clip, "crop": crop, **options}
    model.arguments = DEFAULTS | arguments | {"num_classes": num_classes}
    return model


def resolve(name: str, *, clip: str = "8x8", crop: int = 224, **options: Any) -> dict[str, Any]:
    """Find the arguments of `VideoResNet` that `create_model` passes, but for num_classes.

    Raises:
        ValueError: as `create_model`; the name is not that of a `VideoResNet`.
    """
    row = find_row(name)
    if row.family.places["build"] != BUILD:
        raise ValueError(f"{name} is no VideoResNet")
    return _resolve(row.fields, clip=clip, crop=crop, **options)


def describe(fields: Mapping[str, Any], *, clip: str, crop: int) -> dict[str, Any]:
    """Find the row of the table, and the fewest options over it, that make a network.

    Args:
        fields: arguments of `VideoResNet`; what is not among them is left to the row.
        clip, crop: as in `create_model`.

    Returns:
        The arguments of `create_model`, of plain values only.

    >>> describe({"depths": (3, 4, 6, 3), "conv1_kernel": (1, 7), "scale": None},
    ...          clip="8x8", crop=224)
    {'name': 'c2d_r50', 'clip': '8x8', 'crop': 224, 'scale': None}
    """
    for option in fields:
        check_choice("option", option, DEFAULTS)
    best: tuple[tuple[int, int], str, dict[str, Any]] | None = None
    norm = fields.get("norm", "batch")
    for name, found in table().items():
        if found.family.places["build"] != BUILD:
            continue
        row = DEFAULTS | _resolve(found.fields, clip=clip, crop=crop, norm=norm)
        options = {
            key: value
            for key, value in fields.items()
            if key not in ("num_classes", "norm")
            and _normal(key, value, norm) != _normal(key, row[key], norm)
        }
        # a row's structure makes its name: rather three other options than other kernels
        distance = len(STRUCTURE & options.keys()), len(options)
        if best is None or distance < best[0]:
            best = distance, name, options
    assert best is not None, "the table is empty"
    _, name, options = best
    if norm != "batch":
        options["norm"] = norm
    classes = {"num_classes": fields["num_classes"]} if "num_classes" in fields else {}
    return {"name": name, **classes, "clip": clip, "crop": crop, **_plain(options)}


def _resolve(row: Mapping[str, Any], *, clip: str, crop: int, **options: Any) -> dict[str, Any]:
    spec = ClipSpec.parse(clip)
    for option in options:
        check_choice("option", option, [k for k in DEFAULTS if k != "num_classes"])
    row = {**row, **options}
    dense = spec.frames >= 32 and spec.rate is not None and spec.rate <= 2
    fields: dict[str, Any] = {"temporal_stride": 2 if dense else 1}
    if row.get("norm") == "frozen" and row.get("extent", "spacetime") == "spacetime":
        fields["temporal_group"] = LONG_CLIP_GROUP
    if row.get("extent") == "time":
        fields["subsample"] = None  # it would pool places, which are apart in this extent
    strides = row.get("strides") or [1, *[2] * (len(row["depths"]) - 1)]
    fields["window"] = _last_side(crop, strides, row.get("stem_padding", 0))
    return fields | row


def _normal(key: str, value: Any, norm: str) -> Any:
    """Write equal settings in one way: no kernels are kernels of 1, "auto" is what it means."""
    if key in ("kernels_a", "kernels_b"):
        ones = value is None or all(k == 1 for stage in value for k in stage)
        return None if ones else _plain(value)
    if key == "block_norm" and value == "auto":
        return "batch" if norm == "batch" else None
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
