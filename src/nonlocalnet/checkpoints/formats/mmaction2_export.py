"""Export to MMAction2's format: names, and the configuration that builds the network there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nonlocalnet.checkpoints.exporting import depth_of, rename_back, require
from nonlocalnet.checkpoints.formats.mmaction2 import RULES
from nonlocalnet.checkpoints.formats.mmaction2_config import CROPS
from nonlocalnet.checkpoints.infer import is_slow
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.temporal_shift import blocks_of, remove_time_axis, wrap
from nonlocalnet.clips import ClipSpec

PROJECT = "MMAction2"


def export(
    arguments: Mapping[str, Any], state: Mapping[str, LazyTensor], info: WeightsInfo
) -> dict[str, Any]:
    """Translate an I3D, SlowOnly or TSM to MMAction2's format, with its configuration.

    A bias of W_z is folded into the mean of the norm after it.

    Raises:
        ValueError: MMAction2 has no such network.
    """
    backbone = _backbone(arguments)
    tsm = backbone["type"] == "ResNetTSM"
    state = _fold_biases(state)
    if tsm:
        state = {name: remove_time_axis(name, entry) for name, entry in state.items()}
    names = {}
    for name, entry in rename_back(PROJECT, RULES, state).items():
        if name.endswith("concat_project.conv.weight"):
            entry = entry.map((1, *entry.shape, 1, 1), lambda weight: weight.view(1, -1, 1, 1))
        if tsm:
            name = wrap(name, "conv1.conv.weight", arguments["depths"], blocks_of(arguments))
        if arguments["subsample"] is None:
            name = re.sub(r"(non_local_block\.(g|phi))\.0\.", r"\1.", name)
        names[name] = entry
    meta = {"cfg": _config(backbone, arguments, info)}
    if info.classes:
        meta["dataset_meta"] = {"classes": info.classes}
    return {"meta": meta, "state_dict": names}


def _backbone(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Make the configuration of the backbone."""
    width = arguments["conv1_channels"]
    needed: dict[str, Any] = {"widths": [width * factor for factor in (1, 2, 4, 8)]}
    backbone: dict[str, Any] = {"depth": depth_of(PROJECT, arguments)}
    if arguments["shift_div"]:
        needed |= {"conv1_kernel": (1, 7), "kernels_a": None, "kernels_b": None}
        needed |= {"conv1_channels": 64, "pool2_time": 1, "temporal_stride": 1}
        backbone |= {"type": "ResNetTSM", "shift_div": arguments["shift_div"]}
        backbone["strides"] = list(arguments["strides"])
    else:
        slow = is_slow(_with_kernels(arguments)) and arguments["pool2_time"] == 1
        needed["conv1_kernel"] = (arguments["conv1_kernel"][0], 7)
        backbone |= {
            "type": "ResNet3dSlowOnly" if slow else "ResNet3d",
            "base_channels": width,
            "conv1_kernel": (arguments["conv1_kernel"][0], 7, 7),
            "conv1_stride_t": arguments["temporal_stride"],
            "pool1_stride_t": arguments["temporal_stride"],
            "with_pool2": arguments["pool2_time"] > 1,
            "spatial_strides": tuple(arguments["strides"]),
        }
        backbone |= {"lateral": False} if slow else {}
        backbone |= _inflation(arguments)
    if places := arguments["non_local"]:
        needed["subsample_position"] = "after"
        if arguments["scale"] not in ("auto", None):
            raise ValueError(f"{PROJECT} scales by d^-0.5 or not; this is {arguments['scale']}")
        if arguments["subsample"] not in (None, (1, 2, 2), [1, 2, 2]):
            raise ValueError(f"{PROJECT} pools keys by (1, 2, 2); not {arguments['subsample']}")
        backbone["non_local"] = tuple(
            tuple(int(i in places.get(f"res{stage}", ())) for i in range(depth))
            for stage, depth in enumerate(arguments["depths"], 2)
        )
        backbone["non_local_cfg"] = {
            "mode": arguments["pairwise"],
            "sub_sample": arguments["subsample"] is not None,
            "use_scale": arguments["scale"] == "auto",
            "norm_cfg": {"type": "BN3d", "requires_grad": True},
        }
    first = arguments["temporal_stride"] if arguments["pool1_time"] is None else 1
    if first != 1 or arguments["pool1_time"] not in (None, 1):
        raise ValueError(f"{PROJECT}'s networks have pool1_time=1")
    if arguments["pool2_time"] not in (1, 2):
        raise ValueError(f"{PROJECT}'s networks have pool2_time=1 or 2")
    require(PROJECT, arguments, needed)
    return backbone


def _with_kernels(arguments: Mapping[str, Any]) -> dict[str, Any]:
    ones = [[1] * depth for depth in arguments["depths"]]
    return {**arguments, "kernels_a": arguments["kernels_a"] or ones}


def _inflation(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Say which blocks have temporal kernels, in which convolution."""
    kernels = {x: arguments[f"kernels_{x}"] for x in "ab"}
    inflated = {x: k for x, k in kernels.items() if k and any(n > 1 for s in k for n in s)}
    if len(inflated) > 1 or any(n not in (1, 3) for k in inflated.values() for s in k for n in s):
        raise ValueError(f"{PROJECT} inflates one convolution of a block, to 3 frames")
    if not inflated:
        return {"inflate": (0, 0, 0, 0)}
    convolution, of = next(iter(inflated.items()))
    return {
        "inflate": tuple(tuple(int(n > 1) for n in stage) for stage in of),
        "inflate_style": "3x1x1" if convolution == "a" else "3x3x3",
    }


def _fold_biases(state: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Leave out the biases of W_z; the means of the norms after them become smaller by as much."""
    result = {name: entry for name, entry in state.items() if not name.endswith(".w_z.bias")}
    for name in state.keys() - result.keys():
        mean, bias = name.replace("w_z.bias", "norm.running_mean"), state[name]
        entry = result[mean]
        result[mean] = entry.map(entry.shape, lambda m, bias=bias: m - bias.read())
    return result


def _config(backbone: Mapping[str, Any], arguments: Mapping[str, Any], info: WeightsInfo) -> str:
    """Write the configuration, as Python."""
    spec, views = ClipSpec.parse(info.config["clip"]), info.views
    tsm = bool(arguments["shift_div"])
    sample: dict[str, Any] = {"type": "SampleFrames", "test_mode": True}
    if spec.rate is None:
        if not tsm:
            raise ValueError(f"{PROJECT} has clips of segments for TSM alone")
        sample |= {"clip_len": 1, "frame_interval": 1, "num_clips": spec.frames}
        sample |= {"twice_sample": True} if views.num_clips == 2 else {}
    elif tsm:
        sample |= {"type": "DenseSampleFrames", "clip_len": 1, "frame_interval": 1}
        sample |= {"num_clips": spec.frames, "sample_range": spec.span}
        sample |= {"num_sample_positions": views.num_clips or 10}
    else:
        sample |= {"clip_len": spec.frames, "frame_interval": spec.rate}
        sample |= {"num_clips": views.num_clips or 10}
    crop = next((name for name, n in CROPS.items() if n == views.num_crops), "ThreeCrop")
    pipeline = [
        sample,
        {"type": "Resize", "scale": (-1, info.short_side)},
        {"type": crop, "crop_size": views.crop or info.short_side},
    ]
    model = {
        "type": "Recognizer2D" if tsm else "Recognizer3D",
        "backbone": {**backbone, **({"num_segments": spec.frames} if tsm else {})},
        "cls_head": {
            "type": "TSMHead" if tsm else "I3DHead",
            "num_classes": arguments["num_classes"],
            "in_channels": 4 * arguments["widths"][-1],
            "dropout_ratio": arguments["dropout"],
            "average_clips": "score" if views.average == "logits" else "prob",
            **({"multi_class": True} if info.multi_label else {}),
        },
        "data_preprocessor": {
            "type": "ActionDataPreprocessor",
            "mean": [255 * value for value in info.mean],
            "std": [255 * value for value in info.std],
        },
    }
    return f"model = {model!r}\ntest_pipeline = {pipeline!r}\n"
