"""What every field of a description may be: a file from the net is believed in nothing.

Sizes that tensors show are bounded by the tensors (`check_size`), choices by whoever takes them;
here are kinds, signs and what else takes memory.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from nonlocalnet.detection.networks import DETECTORS, create_detector
from nonlocalnet.errors import shown

MOST_PIXELS = 1 << 26  # of a clip: 1,024 frames of 256 x 256; the paper's have 128
MOST = 1 << 20  # of a number that no tensor bounds

Fits = Callable[[Any], bool]


def _whole(value: Any, low: int = 1) -> bool:
    return type(value) is int and value >= low


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MOST and math.isfinite(value)


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
    return _word(value) and len(value) < 16  # the rest is said by `resolve`


def _small(low: int) -> Fits:
    return lambda value: _whole(value, low) and value < MOST


def _or_none(fits: Fits) -> Fits:
    return lambda value: value is None or fits(value)


def _word(value: Any) -> bool:
    return type(value) is str


# Field -> (what it is, the test); the arguments of `create_model`.
FIELDS: dict[str, tuple[str, Fits]] = {
    "name": ("a word", _word),
    "clip": ("FRAMESxRATE, such as '8x8'", _clip),
    **dict.fromkeys(("num_classes", "conv1_channels"), ("a whole number from 1", _whole)),
    **dict.fromkeys(
        ("crop", "temporal_stride", "pool2_time"), (f"a whole number from 1 to {MOST:,}", _small(1))
    ),
    "stem_padding": ("a whole number from 0", _small(0)),
    **dict.fromkeys(
        ("pool1_time", "temporal_group", "window"),
        ("None or a whole number from 1", _or_none(_small(1))),
    ),
    **dict.fromkeys(("depths", "widths"), ("a list of whole numbers from 1", _wholes)),
    "conv1_kernel": ("two whole numbers from 1", lambda v: _wholes(v) and len(v) == 2),
    **dict.fromkeys(
        ("kernels_a", "kernels_b"), ("None or a list of whole numbers a stage", _kernels)
    ),
    "non_local": ("None or a list of whole numbers from 0 a stage", _places),
    **dict.fromkeys(("pairwise", "extent", "subsample_position", "norm"), ("a word", _word)),
    "block_norm": ("None or a word", _or_none(_word)),
    "scale": (
        "'auto', None or a number",
        lambda v: v in ("auto", None) if not isinstance(v, (int, float)) else _number(v),
    ),
    "subsample": (
        "None or three whole numbers from 1",
        _or_none(lambda v: _wholes(v) and len(v) == 3 and max(v) < MOST),
    ),
    "bias": ("true or false", lambda v: type(v) is bool),
    "dropout": ("a number from 0 to 1", lambda v: _number(v) and 0 <= v <= 1),
}


def check_fields(config: Mapping[str, Any]) -> None:
    """Check the kinds of a description's values; a field that is none is left to who takes it.

    Raises:
        ValueError: the first that is of the wrong kind, and what is allowed.
    """
    name = config.get("name")
    fields = _fields_of(DETECTORS[name].kind) if _word(name) and name in DETECTORS else FIELDS
    for field, value in config.items():
        what, fits = fields.get(field, ("", lambda value: True))
        if not fits(value):
            raise ValueError(f"{field} must be {what}; got {shown(value)}")


def check_pixels(frames: int, side: int) -> None:
    """Refuse a clip, or an image of one frame, that would take the memory of whoever tries it.

    Raises:
        ValueError: with the limit.
    """
    if frames * side**2 > MOST_PIXELS:
        meant = "; pass clip=... if it is meant" if frames > side else ""
        raise ValueError(
            f"its input of {frames:,} x {side:,} x {side:,} is more than {MOST_PIXELS:,} pixels, "
            f"as 1,024 frames of 256 x 256 have{meant}"
        )


def _fields_of(kind: Any) -> dict[str, tuple[str, Fits]]:
    """A detector's fields: what their defaults are, of `create_detector` and of torchvision."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    from nonlocalnet.detection import rcnn

    fields: dict[str, tuple[str, Fits]] = {}
    for function in (GeneralizedRCNNTransform, rcnn.NETWORKS[kind], create_detector):
        for name, parameter in inspect.signature(function).parameters.items():
            fields[name] = _kind_of(parameter.default)
    for name in ("image_mean", "image_std"):
        fields[name] = ("None or three numbers", _or_none(_colors))
    fields["min_size"] = ("a number of pixels, or some", _sides)
    fields["max_size"] = fields["size_divisible"] = FIELDS["crop"]
    fields["name"], fields["num_classes"] = FIELDS["name"], FIELDS["num_classes"]
    return fields


def _kind_of(default: Any) -> tuple[str, Fits]:
    if type(default) is bool:
        return FIELDS["bias"]
    if type(default) is int:
        return FIELDS["stem_padding"]
    if type(default) is float:
        return "a number", _number
    if type(default) is str:
        return FIELDS["pairwise"]
    return "None, a number or a word", _or_none(_plain)
