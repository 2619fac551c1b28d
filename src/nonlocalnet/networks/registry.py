"""Every network by name: one table, from which `create_model` builds and `list_models` lists."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from nonlocalnet.clips import ClipSpec
from nonlocalnet.detection.networks import DETECTORS, create_detector
from nonlocalnet.errors import check_choice
from nonlocalnet.networks.video_resnet import VideoResNet

# A VideoResNet, or torchvision's MaskRCNN or KeypointRCNN: who asks by name knows which.
Network: TypeAlias = Any

LONG_CLIP_GROUP = 4  # frames; official code, with frozen norm and in res3 only

DEPTHS = {"r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3)}

# After which residual blocks the non-local blocks stand (paper, section 3.3; official code,
# `layer_mod`). One block stands right before a stage's last residual block; R101's ten, which the
# official code cannot express, are spread evenly over res4.
PLACES = {
    "r50": {
        "": {},
        "_nl1": {"res4": (4,)},
        "_nl1_res2": {"res2": (1,)},
        "_nl1_res3": {"res3": (2,)},
        "_nl1_res5": {"res5": (1,)},
        "_nl5": {"res3": (1, 3), "res4": (1, 3, 5)},
        "_nl10": {"res3": (0, 1, 2, 3), "res4": (0, 1, 2, 3, 4, 5)},
    },
    "r101": {
        "": {},
        "_nl1": {"res4": (21,)},
        "_nl1_res2": {"res2": (1,)},
        "_nl1_res3": {"res3": (2,)},
        "_nl1_res5": {"res5": (1,)},
        "_nl5": {"res3": (1, 3), "res4": (6, 13, 20)},
        "_nl10": {"res3": (0, 1, 2, 3), "res4": (2, 6, 10, 14, 18, 22)},
    },
}


def temporal_kernels(depths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Give each block's temporal kernel in an I3D: all of res2, then every second block.

    Source: official code, `obtain_arc`; res5 has its middle block inflated.

    >>> temporal_kernels((3, 4, 6, 3))
    ((3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1))
    """

    def kernel(stage: int, i: int) -> int:
        return 3 if stage == 0 or i % 2 == (stage == 3) else 1

    return tuple(tuple(kernel(stage, i) for i in range(n)) for stage, n in enumerate(depths))


def _paper_rows() -> Iterator[tuple[str, dict[str, Any]]]:
    for depth, depths in DEPTHS.items():
        kernels = temporal_kernels(depths)
        families: dict[str, dict[str, Any]] = {
            "c2d": {},
            "i3d": {"conv1_kernel": (5, 7), "kernels_a": kernels},
            "i3d3x3x3": {"conv1_kernel": (5, 7), "kernels_b": kernels},
        }
        for family, fields in families.items():
            for suffix, places in PLACES[depth].items():
                row = {"depths": depths, **fields, "non_local": places}
                yield f"{family}_{depth}{suffix}", row


# Small networks of three stages, for the demo, tests and small data: fields, and where the two
# blocks of "_nl2" stand.
SMALL: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "tiny": (
        # unscaled: at so few channels the scale keeps the softmax flat for long (docs/results.md)
        {"depths": (1, 2, 1), "widths": (8, 32, 16), "conv1_channels": 16, "scale": None},
        {"res3": (0, 1)},
    ),
    "small": (
        {"depths": (1, 2, 2), "widths": (16, 32, 64), "conv1_channels": 32},
        {"res3": (1,), "res4": (1,)},
    ),
}


def _small_rows() -> Iterator[tuple[str, dict[str, Any]]]:
    for size, (fields, places) in SMALL.items():
        kernels = temporal_kernels(fields["depths"])
        families: dict[str, dict[str, Any]] = {
            "c2d": {"conv1_kernel": (1, 3)},
            "i3d": {"conv1_kernel": (5, 3), "kernels_a": kernels},
        }
        for family, inflation in families.items():
            yield f"{family}_{size}", fields | inflation | {"non_local": {}}
            yield f"{family}_{size}_nl2", fields | inflation | {"non_local": places}


_TABLE: dict[str, dict[str, Any]] = {}


def register(name: str, fields: Mapping[str, Any]) -> None:
    """Add a network to the table: `fields` are the arguments of `VideoResNet`.

    Raises:
        ValueError: the name is taken.
    """
    if name in _TABLE or name in DETECTORS:
        raise ValueError(f"model {name!r} is in the table already; choose another name")
    _TABLE[name] = dict(fields)


for _name, _fields in (*_paper_rows(), *_small_rows()):
    register(_name, _fields)


def list_models(pattern: str = "*") -> list[str]:
    """List the names of the table that match a shell pattern, in the table's order.

    >>> list_models("*_r50*_nl1")
    ['c2d_r50_nl1', 'i3d_r50_nl1', 'i3d3x3x3_r50_nl1', 'mask_rcnn_r50_fpn_nl1']
    """
    return fnmatch.filter([*_TABLE, *DETECTORS], pattern)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    clip: str | None = None,
    crop: int | None = None,
    **options: Any,
) -> Network:
    """Build a network of the table.

    Args:
        name: a row of the table; `list_models` gives them. Those of COCO, mask_rcnn_* and
            keypoint_rcnn_*, are torchvision's R-CNNs with our blocks: `create_detector` says more.
        num_classes: K, by default 400; of a detector, with the background, 91 or 2.
        clip: "FRAMESxRATE", the clip it is for: "8x8", "32x2", "32x4", "128x1" or another. Dense
            clips (32 frames or more, rate 1 or 2) get temporal strides of 2 in conv1 and pool1, as
            the paper's 32x2 and 128x1; sparse ones none. By default "8x8".
        crop: side of the training crop in pixels, by default 224; fixes the window of fully
            convolutional testing.
        options: any other argument of `VideoResNet`, over the row's own: pairwise, extent, scale,
            subsample, subsample_position, bias, block_norm, norm, stem_padding, temporal_stride,
            temporal_group, pool1_time, pool2_time, window, dropout, non_local ...

    Returns:
        The network, newly initialized: a `VideoResNet`, or torchvision's `MaskRCNN` or
        `KeypointRCNN`. `.config` holds the arguments that build it again, a video network's
        `.arguments` all those of `VideoResNet`.

    Raises:
        ValueError: an unknown name or option, with the nearest that exists; a detector's clip.

    With norm="frozen", res3's non-local blocks see groups of 4 frames, as in the official long-clip
    networks; temporal_group=None undoes it.

    >>> import torch, nonlocalnet as nl
    >>> model = nl.create_model("c2d_tiny_nl2", num_classes=10, clip="4x2", crop=32)
    >>> model(torch.randn(2, 3, 4, 32, 32)).shape
    torch.Size([2, 10])
    """
    if name in DETECTORS:
        if clip is not None or crop is not None:
            raise ValueError(f"{name} takes images: it has no clip and no crop")
        return create_detector(name, num_classes=num_classes, **options)
    num_classes, clip, crop = num_classes or 400, clip or "8x8", crop or 224
    fields = resolve(name, clip=clip, crop=crop, **options)
    model = VideoResNet(num_classes=num_classes, **fields)
    model.config = {"name": name, "num_classes": num_classes, "clip": clip, "crop": crop, **options}
    model.arguments = DEFAULTS | fields | {"num_classes": num_classes}
    return model


DEFAULTS = {k: p.default for k, p in inspect.signature(VideoResNet).parameters.items()}


def resolve(name: str, *, clip: str = "8x8", crop: int = 224, **options: Any) -> dict[str, Any]:
    """Tell the arguments of `VideoResNet` that `create_model` passes, but for num_classes.

    Raises:
        ValueError: as `create_model`.
    """
    check_choice("model", name, list_models())
    if name in DETECTORS:
        raise ValueError(f"{name} is a detector, not a video network")
    spec = ClipSpec.parse(clip)
    for option in options:
        check_choice("option", option, [k for k in DEFAULTS if k != "num_classes"])
    row = _TABLE[name] | options
    dense = spec.frames >= 32 and spec.rate <= 2
    fields: dict[str, Any] = {"temporal_stride": 2 if dense else 1}
    if row.get("norm") == "frozen" and row.get("extent", "spacetime") == "spacetime":
        fields["temporal_group"] = LONG_CLIP_GROUP
    if row.get("extent") == "time":
        fields["subsample"] = None  # it would pool places, which are apart in this extent
    fields["window"] = _last_side(crop, len(row["depths"]), row.get("stem_padding", 0))
    return fields | row


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
    best: tuple[str, dict[str, Any]] | None = None
    norm = fields.get("norm", "batch")
    for name in _TABLE:
        row = DEFAULTS | resolve(name, clip=clip, crop=crop, norm=norm)
        options = {
            key: value
            for key, value in fields.items()
            if key not in ("num_classes", "norm")
            and _normal(key, value, norm) != _normal(key, row[key], norm)
        }
        if best is None or len(options) < len(best[1]):
            best = name, options
    assert best is not None, "the table is empty"
    name, options = best
    if norm != "batch":
        options["norm"] = norm
    classes = {"num_classes": fields["num_classes"]} if "num_classes" in fields else {}
    return {"name": name, **classes, "clip": clip, "crop": crop, **_plain(options)}


def _normal(key: str, value: Any, norm: str) -> Any:
    """One way to say it: no kernels are kernels of 1, "auto" is what it stands for."""
    if key in ("kernels_a", "kernels_b"):
        ones = value is None or all(k == 1 for stage in value for k in stage)
        return None if ones else _plain(value)
    if key == "block_norm" and value == "auto":
        return "batch" if norm == "batch" else None
    if key == "non_local":
        return {stage: sorted(places) for stage, places in (value or {}).items() if places}
    return _plain(value)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _last_side(crop: int, stages: int, stem_padding: int) -> int:
    """Follow a crop's side to the last feature map: conv1, pool1, then all stages but the first."""
    side = (-(-crop // 2) + 2 * stem_padding - 3) // 2 + 1
    for _ in range(stages - 1):
        side = -(-side // 2)
    return max(side, 1)
