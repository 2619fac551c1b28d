"""Our own format: names need no translation, and the metadata describe the network.

The description is not trusted: every field is checked for its kind, its sign and the memory it
would take. Sizes that tensors show are compared with the tensors before the network is built
(`load`); choices are checked by the code that uses them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from nonlocalnet.checkpoints.files import KEY, Checkpoint
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.report import BLOCK_CONVENTIONS, CONVENTIONS
from nonlocalnet.checkpoints.translate import Translated
from nonlocalnet.errors import printable, shown
from nonlocalnet.networks.registry import family_of

ORIGIN = "nonlocalnet"
MAX = 1 << 20  # of a number that no tensor limits

Fits = Callable[[Any], bool]


def translate(checkpoint: Checkpoint) -> Translated:
    """Keep all names, and read what the description says.

    Raises:
        ValueError: the description is damaged, or describes something impossible.
    """
    result = Translated(ORIGIN, tensors=dict(checkpoint.tensors))
    result.names = {name: name for name in checkpoint.tensors}
    result.unknown += checkpoint.others
    if KEY not in checkpoint.meta:
        return result
    info = result.info = read_description(checkpoint)
    check_fields(info.config)
    result.mean, result.std, result.classes = info.mean, info.std, info.classes
    arguments = family_of(info.config["name"]).load("weights").find_arguments(info.config)
    names = CONVENTIONS + BLOCK_CONVENTIONS
    result.fields = {name: arguments[name] for name in names if name in arguments}
    return result


def read_description(checkpoint: Checkpoint) -> WeightsInfo:
    """Read the description in a file of ours.

    Raises:
        ValueError: the description is damaged.
    """
    known = {item.name for item in fields(WeightsInfo)}
    try:
        info = json.loads(checkpoint.meta[KEY], object_pairs_hook=_without_repetition)
        if not isinstance(info["config"], dict):
            raise TypeError("config is not a table")
        if unknown := set(info) - known:
            raise TypeError(f"unknown {shown(sorted(unknown))}: written by a later version?")
        result = WeightsInfo(**info)
        count = result.config.get("num_classes")
        if type(count) is int and 0 < count < len(result.classes):
            raise TypeError(f"{len(result.classes):,} names for {count:,} classes")
        return result
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        problem = printable(error, 300)
        raise ValueError(f"{checkpoint.path} has a damaged description: {problem}") from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("it says something twice")
    return table


# --- what each field may be


def _whole(value: Any, low: int = 1) -> bool:
    return type(value) is int and value >= low


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MAX and math.isfinite(value)


def _wholes(value: Any, low: int = 1) -> bool:
    return isinstance(value, (list, tuple)) and all(_whole(item, low) for item in value)


def _kernels(value: Any) -> bool:
    return value is None or (isinstance(value, (list, tuple)) and all(map(_wholes, value)))


def _places(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping)
        and all(type(stage) is str and _wholes(of, low=0) for stage, of in value.items())
    )


def _colors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_number, value))


def _sides(value: Any) -> bool:
    return _whole(value) or (_wholes(value) and 0 < len(value) < 100)


def _plain(value: Any) -> bool:
    return type(value) is bool or _word(value) or _number(value)


def _clip(value: Any) -> bool:
    return _word(value) and len(value) < 16  # the rest is checked by the registry


def _small(low: int) -> Fits:
    return lambda value: _whole(value, low) and value < MAX


def _or_none(fits: Fits) -> Fits:
    return lambda value: value is None or fits(value)


def _or_each(fits: Fits) -> Fits:
    """Accept a value, or a value for each stage by name."""
    return lambda value: (
        all(type(stage) is str and fits(of) for stage, of in value.items())
        if isinstance(value, Mapping)
        else fits(value)
    )


def _low(values: Any) -> bool:
    return max(values, default=1) < MAX


def _word(value: Any) -> bool:
    return type(value) is str


# Argument of `create_model` -> (what it must be, the test).
FIELDS: dict[str, tuple[str, Fits]] = {
    "name": ("a word", _word),
    "clip": ("FRAMESxRATE, such as '8x8'", _clip),
    **dict.fromkeys(("num_classes", "conv1_channels"), ("a whole number from 1", _whole)),
    **dict.fromkeys(
        (
            "crop",
            "temporal_stride",
            "pool2_time",
            "alpha",
            "beta",
            "lateral_kernel",
            "lateral_ratio",
        ),
        (f"a whole number from 1 to {MAX:,}", _small(1)),
    ),
    "stem_padding": ("a whole number from 0", _small(0)),
    **dict.fromkeys(
        ("pool1_time", "window", "shift_div"),
        ("None or a whole number from 1", _or_none(_small(1))),
    ),
    **dict.fromkeys(("depths", "widths"), ("a list of whole numbers from 1", _wholes)),
    **dict.fromkeys(
        ("conv1_kernel", "fast_conv1_kernel"),
        ("two whole numbers from 1", lambda v: _wholes(v) and len(v) == 2),
    ),
    **dict.fromkeys(
        ("kernels_a", "kernels_b", "fast_kernels_a"),
        ("None or a list of whole numbers a stage", _kernels),
    ),
    **dict.fromkeys(
        ("strides", "dilations"),
        ("None or a list of whole numbers from 1", _or_none(lambda v: _wholes(v) and _low(v))),
    ),
    "temporal_group": (
        "None or a whole number from 1, or one of these a stage",
        _or_each(_or_none(_small(1))),
    ),
    "non_local": ("None or a list of whole numbers from 0 a stage", _places),
    **dict.fromkeys(("pairwise", "extent", "subsample_position", "norm"), ("a word", _word)),
    "block_norm": ("None or a word", _or_none(_word)),
    "scale": (
        "'auto', None or a number",
        lambda v: v in ("auto", None) if not isinstance(v, (int, float)) else _number(v),
    ),
    "subsample": (
        "None or three whole numbers from 1, or one of these a stage",
        _or_each(_or_none(lambda v: _wholes(v) and len(v) == 3 and _low(v))),
    ),
    "weights": ("None: a file is complete", lambda v: v is None),  # never download anything
    "bias": ("true or false", lambda v: type(v) is bool),
    "dropout": ("a number from 0 to 1", lambda v: _number(v) and 0 <= v <= 1),
}


def check_fields(config: Mapping[str, Any]) -> None:
    """Check the kinds of the values in a description. Unknown fields are refused by `create_model`.

    Raises:
        ValueError: a value is of the wrong kind; with what is allowed.
    """
    name = config.get("name")
    if not _word(name):
        raise ValueError(f"name must be a word; got {shown(name)}")
    fields = family_of(name).load("fields")(name)
    for field, value in config.items():
        what, fits = fields.get(field, ("", lambda value: True))
        if not fits(value):
            raise ValueError(f"{field} must be {what}; got {shown(value)}")


def fields_of_video(name: str) -> dict[str, tuple[str, Fits]]:
    """Return the fields in the description of a video network."""
    return FIELDS
