"""What MMAction2's configurations say of a network, and what they leave to its code."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from nonlocalnet.checkpoints.python_config import as_dict
from nonlocalnet.checkpoints.translate import Translated
from nonlocalnet.clips import MAX_CLIPS
from nonlocalnet.errors import shown

NORM_EPS = 1e-5
PLACES = ("data_root", "ann_file")  # of its data
CROPS = {"CenterCrop": 1, "ThreeCrop": 3, "TenCrop": 10}
DENSE = "DenseSampleFrames"
NAMES = {"frames": "clip_len", "rate": "frame_interval", "clips": "num_clips"}
SAMPLERS = ("SampleFrames", DENSE, "SampleAVAFrames")
STRIDES = ((1, 2, 2, 2), "as in its networks for clips; those for AVA have (1, 2, 2, 1)")


@dataclass(frozen=True)
class Kind:
    """One of its backbones.

    Attributes:
        fields: arguments of `VideoResNet` that its code determines.
        clip: of the released files.
        needed: options of its configuration that our networks have no others of.
        assumed: what a file without a configuration does not say -> (value, why).
    """

    fields: Mapping[str, Any]
    clip: str
    needed: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, tuple[Any, str]] = field(default_factory=dict)


# The class of the backbone -> the rest.
KINDS = {
    "ResNet3d": Kind(
        {"temporal_stride": 2, "pool2_time": 2},
        "'32x2'",
        {
            "with_pool1": True,
            "conv1_stride_s": 2,
            "pool1_stride_s": 2,
            "temporal_strides": (1, 1, 1, 1),
        },
        {
            "temporal_stride": (2, "as in its I3D; its 'heavy' ones need 1"),
            "pool2_time": (2, "as in its released I3D"),
            "scale": (None, "as in its released I3D"),
            "strides": STRIDES,
        },
    ),
    "ResNet3dSlowOnly": Kind(
        {"temporal_stride": 1, "pool2_time": 1},
        "'4x16' or '8x8'",
        {
            "lateral": False,
            "with_pool1": True,
            "with_pool2": False,
            "conv1_stride_s": 2,
            "pool1_stride_s": 2,
            "temporal_strides": (1, 1, 1, 1),
        },
        {"scale": ("auto", "as in its released SlowOnly"), "strides": STRIDES},
    ),
    "ResNetTSM": Kind(
        {"temporal_stride": 1, "pool2_time": 1},
        "'8seg', 8 segments",
        {"is_shift": True, "shift_place": "blockres", "temporal_pool": False},
        {
            "shift_div": (8, "as in its released TSM"),
            "scale": (None, "as in its released TSM"),
        },
    ),
}
# The same for all.
NEEDED = {"style": "pytorch", "num_stages": 4, "dilations": (1, 1, 1, 1)}


def kind_of(config: Mapping[str, Any] | None, seen: str) -> str:
    """Return the class of the backbone, as the configuration says; without one, the one `seen`.

    Raises:
        ValueError: it is of another kind.
    """
    if config is None:
        return seen
    name = _backbone(config).get("type", seen)
    name = name.removeprefix("mmaction.") if isinstance(name, str) else ""
    # a ResNet3d may have any temporal kernels, those of SlowOnly too
    if name not in ({seen} if seen == "ResNetTSM" else {seen, "ResNet3d"}):
        said = reprlib.repr(_backbone(config)["type"])
        raise ValueError(f"its configuration has type={said}, which is not supported")
    return name


def apply_config(config: Mapping[str, Any], kind: Kind, result: Translated) -> None:
    """Read from a configuration what shapes do not show; refuse what our networks do not have."""
    backbone, fields = _backbone(config), result.fields
    for name, value in {**NEEDED, **kind.needed}.items():
        given = backbone.get(name, value)
        if given is not value and _tuple(given) != value:
            said = reprlib.repr(given)
            raise ValueError(f"its configuration has {name}={said}, which is not supported")
    eps = as_dict(backbone.get("norm_cfg")).get("eps", NORM_EPS)
    if eps != NORM_EPS:
        raise ValueError(f"its norms have eps={shown(eps)}, not {NORM_EPS}: not supported")
    if "shift_div" in kind.assumed:
        fields["shift_div"] = backbone.get("shift_div", 8)
        _check_whole("shift_div", fields["shift_div"])
    else:
        _apply_time(backbone, result)
    strides = _tuple(backbone.get("spatial_strides", backbone.get("strides", (1, 2, 2, 2))))
    for stride in strides if isinstance(strides, tuple) else [strides]:
        _check_whole("spatial_strides", stride)
    if strides != (1, 2, 2, 2):
        fields["strides"] = strides
    _check_places(backbone, result)
    block = as_dict(backbone.get("non_local_cfg"))
    if fields["non_local"]:
        form = block.get("mode", "embedded_gaussian")
        if "pairwise" in fields and form != fields["pairwise"]:
            said = reprlib.repr(form)
            raise ValueError(f"its configuration says {said}, its tensors {fields['pairwise']}")
        fields["pairwise"] = form
        if form == "embedded_gaussian":
            fields["scale"] = "auto" if block.get("use_scale", True) else None
    _apply_input(config, result)
    _apply_views(config, kind, result)


def _check_places(backbone: Mapping[str, Any], result: Translated) -> None:
    """Compare the places of the blocks with those that the configuration states, if it does."""
    depths, stated = result.fields["depths"], backbone.get("non_local")
    if not isinstance(stated, (list, tuple)) or len(stated) != len(depths):
        return
    places = {}
    for stage, (flags, depth) in enumerate(zip(stated, depths, strict=True), 2):
        each = flags if isinstance(flags, (list, tuple)) else [flags] * depth
        if found := tuple(i for i, flag in enumerate(each) if flag):
            places[f"res{stage}"] = found
    if places != result.fields["non_local"]:
        seen = result.fields["non_local"]
        raise ValueError(
            f"its configuration has non-local blocks after {shown(places)}, "
            f"its tensors after {seen}"
        )
    result.stated = ("non_local",)


def _apply_time(backbone: Mapping[str, Any], result: Translated) -> None:
    """Read the strides over time, and whether there is a pool2."""
    slow = result.fields["pool2_time"] == 1
    # before its configurations named conv1_kernel, both strides were 2 by default, later 1
    default = 1 if slow or "conv1_kernel" in backbone else 2
    names = [f"{name}_stride_t" for name in ("conv1", "pool1")]
    strides = [backbone.get(name, default) for name in names]
    if strides not in ([1, 1], [2, 2]):
        said = reprlib.repr(strides)
        raise ValueError(f"its temporal strides {said} are not both 1 or both 2: not supported")
    result.fields["temporal_stride"] = strides[0]
    if slow:
        return
    if not set(names) & set(backbone):
        why = "its configuration leaves it to its version's default"
        result.derived["temporal_stride"] = why
    result.fields["pool2_time"] = 2 if backbone.get("with_pool2", True) else 1


def _apply_input(config: Mapping[str, Any], result: Translated) -> None:
    """Read the normalization of the input, and of which data set it is."""
    model = as_dict(config.get("model"))
    result.multi_label = bool(as_dict(model.get("cls_head")).get("multi_class"))
    normal = as_dict(model.get("data_preprocessor")) or as_dict(config.get("img_norm_cfg"))
    if "mean" in normal and "std" in normal:
        result.mean = tuple(float(v) / 255 for v in normal["mean"])
        result.std = tuple(float(v) / 255 for v in normal["std"])
    else:
        why = "as in its released ones; its configuration does not say it"
        result.derived |= dict.fromkeys(("mean", "std"), why)
    places = [v for k, v in config.items() if isinstance(v, str) and k.startswith(PLACES)]
    if any(re.search(r"kinetics[-_]?400", place) for place in places):
        result.dataset = "Kinetics-400"
    if normal.get("to_bgr"):
        result.swap_colors()


def _apply_views(config: Mapping[str, Any], kind: Kind, result: Translated) -> None:
    """Read the clip, and the views of the test."""
    steps = _steps(config)
    sample = next((steps[name] for name in SAMPLERS if name in steps), {})
    given, views = dict.fromkeys(("frames", "rate", "clips")), result.views
    given |= {ours: sample.get(theirs) for ours, theirs in NAMES.items()}
    if result.fields["shift_div"]:  # its clips are the segments
        frames = _backbone(config).get("num_segments", given["clips"])
        twice = 2 if sample.get("twice_sample") is True else None
        given = {"frames": frames, "rate": None, "clips": twice}
        if sample.get("type") == DENSE and _is_whole(frames):
            window = sample.get("sample_range", 64)  # frames of the video for a clip
            clips = sample.get("num_sample_positions", 10)
            given |= {"rate": window // frames if _is_whole(window) else None, "clips": clips}
            views = replace(views, rule="tsm")
    frames, rate = given["frames"], given["rate"]
    if _is_whole(frames) and (_is_whole(rate) or (rate is None and result.fields["shift_div"])):
        result.clip = f"{frames}seg" if rate is None else f"{frames}x{rate}"
    else:
        result.asked["clip"] = f"{kind.clip} for the released ones"
    model = as_dict(config.get("model"))
    averages = (as_dict(model.get(part)).get("average_clips") for part in ("cls_head", "test_cfg"))
    if "score" in averages:
        views = replace(views, average="logits")
    clips = given["clips"]
    if "test_pipeline" in config and _is_whole(clips) and clips <= MAX_CLIPS:
        views = replace(views, num_clips=clips)
    name = next((name for name in CROPS if name in steps), None)
    crop = None if name is None else steps[name].get("crop_size")
    sides = as_dict(steps.get("Resize")).get("scale")
    sides = [side for side in sides if _is_whole(side)] if isinstance(sides, (list, tuple)) else []
    if _is_whole(crop):
        result.short_side = max([crop, *sides[:1]])
        if "test_pipeline" in config and name is not None:
            other = None if crop == result.short_side else crop
            views = replace(views, num_crops=CROPS[name], crop=other)
    result.views = views


def _steps(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
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


def _backbone(config: Mapping[str, Any]) -> dict[str, Any]:
    return as_dict(as_dict(config.get("model")).get("backbone"))


def _is_whole(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 < value < 1 << 20


def _check_whole(name: str, value: Any) -> None:
    if not _is_whole(value):
        said = reprlib.repr(value)
        raise ValueError(f"its configuration has {name}={said}, which is not supported")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
