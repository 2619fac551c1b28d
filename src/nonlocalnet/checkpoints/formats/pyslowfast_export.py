"""Export to PySlowFast's format: names, and the configuration that builds the network there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nonlocalnet.checkpoints.formats.pyslowfast import (
    FAST,
    PAIRWISE,
    PATHWAYS,
    RULES,
    STAGES,
    frames_of,
)
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.report import differ
from nonlocalnet.clips import MEAN, STD, ClipSpec
from nonlocalnet.networks.arguments import of_stages

# Architecture -> temporal kernels: of the stem, and of the blocks of each stage, repeated.
KERNELS = {
    "c2d": (1, ((1,), (1,), (1,), (1,))),
    "i3d": (5, ((3,), (3, 1), (3, 1), (1, 3))),
    "slow": (1, ((1,), (1,), (3,), (3,))),
    FAST: (5, ((3,), (3,), (3,), (3,))),
}


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
        arguments: all of the network's class, and the training crop.
        state: its tensors, by our names.
        clip: FRAMESxRATE.
        short_side, mean, std, multi_label: of its input and its classes.

    Returns:
        {"epoch", "model_state", "optimizer_state", "cfg"}; model_state holds `LazyTensor`.

    Raises:
        ValueError: PySlowFast's networks have no such option.
    """
    width, crop = arguments["conv1_channels"], arguments["crop"]
    needed = {
        "stem_padding": 1,
        "temporal_stride": 1,
        "norm": "batch",
        "conv1_kernel": [arguments["conv1_kernel"][0], 7],
        "widths": [width * factor for factor in (1, 2, 4, 8)],
        "subsample_position": "before",
        "extent": "spacetime",
        "scale": "auto",
        "bias": True,
        "window": max(crop // 32, 1),
    }
    for name, value in needed.items():
        if differ(name, given := arguments[name], value):
            raise ValueError(f"PySlowFast's networks have {name}={value!r}; this one {given!r}")
    forms = {ours: theirs for theirs, ours in PAIRWISE.items()}
    if arguments["non_local"] and arguments["pairwise"] not in forms:
        raise ValueError(f"PySlowFast has {' and '.join(forms)}; this is {arguments['pairwise']}")
    layers = 3 * sum(arguments["depths"]) + 2
    if layers not in (50, 101):
        raise ValueError(f"PySlowFast has ResNet-50 and -101; this network has {layers} layers")
    arch, inflated = _find_architecture(arguments)
    names = {name: RULES.to_theirs(name) for name in state}
    if unknown := [name for name, theirs in names.items() if theirs is None]:
        raise ValueError(f"PySlowFast's networks have nothing like {unknown[0]}")
    import yaml

    spec = ClipSpec.parse(clip)
    prefixes = PATHWAYS if arch == "slowfast" else PATHWAYS[:1]

    def each(setting: Callable[[str, int], Any]) -> list[list[Any]]:
        """List a setting of each stage's pathways, from our name and number of the stage."""
        return [[setting(f"{p}res{s}", i) for p in prefixes] for i, s in enumerate(STAGES)]

    places = arguments["non_local"] or {}
    pools, groups = arguments["subsample"], of_stages(arguments["temporal_group"], "res3")

    def pool(stage: str, index: int) -> list[int]:
        return list((pools.get(stage) if isinstance(pools, Mapping) else pools) or (1, 1, 1))

    def group(stage: str, index: int) -> int:
        if stage not in places or not groups.get(stage):
            return 1
        frames, own = frames_of(stage, spec.frames, arguments), groups[stage]
        if frames % own:
            raise ValueError(f"temporal_group {own} of {stage} must divide its {frames} frames")
        return frames // own

    config: dict[str, dict[str, Any]] = {
        "DATA": {
            "NUM_FRAMES": spec.frames,
            "SAMPLING_RATE": spec.rate,
            "INPUT_CHANNEL_NUM": [3 for _ in prefixes],
            "TRAIN_CROP_SIZE": crop,
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
            "NUM_BLOCK_TEMP_KERNEL": each(lambda stage, i: inflated[stage]),
            "SPATIAL_STRIDES": each(lambda stage, i: arguments["strides"][i]),
            "SPATIAL_DILATIONS": each(lambda stage, i: arguments["dilations"][i]),
        },
        "NONLOCAL": {
            "LOCATION": each(lambda stage, i: list(places.get(stage, ()))),
            "GROUP": each(group),
            "INSTANTIATION": forms.get(arguments["pairwise"], "softmax"),
            "POOL": each(pool),
        },
        "MODEL": {
            "ARCH": arch,
            "MODEL_NAME": "SlowFast" if arch == "slowfast" else "ResNet",
            "NUM_CLASSES": arguments["num_classes"],
            "DROPOUT_RATE": arguments["dropout"],
            "HEAD_ACT": "sigmoid" if multi_label else "softmax",
        },
    }
    if arch == "slowfast":
        config["SLOWFAST"] = {
            "ALPHA": arguments["alpha"],
            "BETA_INV": arguments["beta"],
            "FUSION_CONV_CHANNEL_RATIO": arguments["lateral_ratio"],
            "FUSION_KERNEL_SZ": arguments["lateral_kernel"],
        }
    return {
        "epoch": 0,
        "model_state": {names[name]: entry for name, entry in state.items()},
        "optimizer_state": {},
        "cfg": yaml.safe_dump(config),
    }


def _find_architecture(arguments: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
    """Find the architecture of a network, and how many blocks of each stage follow its kernels.

    Raises:
        ValueError: no architecture has such temporal kernels.
    """
    if any(k > 1 for stage in arguments["kernels_b"] or () for k in stage):
        raise ValueError("PySlowFast's I3D has its temporal kernels in the first convolution")
    if "alpha" in arguments:
        slow = _count_inflated("slow", arguments, "conv1_kernel", "kernels_a")
        fast = _count_inflated(FAST, arguments, "fast_conv1_kernel", "fast_kernels_a")
        if slow is not None and fast is not None:
            return "slowfast", slow | {FAST + stage: count for stage, count in fast.items()}
    else:
        pooled = arguments["pool2_time"] > 1
        for arch, name in (("c2d", ""), ("i3d", ""), ("slow", "slow")):
            counts = _count_inflated(arch, arguments, "conv1_kernel", "kernels_a")
            if counts is not None and not (name and pooled):
                return name or arch + ("" if pooled else "_nopool"), counts
    raise ValueError(
        f"PySlowFast has no network of the temporal kernels {arguments['conv1_kernel'][0]} in "
        f"conv1 and {arguments['kernels_a']} in the stages"
    )


def _count_inflated(
    arch: str, arguments: Mapping[str, Any], conv1: str, kernels: str
) -> dict[str, int] | None:
    """Count the blocks of each stage that follow an architecture's kernels; the rest have 1."""
    stem, bases = KERNELS[arch]
    if arguments[conv1][0] != stem:
        return None
    counts = {}
    for index, (depth, basis) in enumerate(zip(arguments["depths"], bases, strict=True)):
        own = list(arguments[kernels][index]) if arguments[kernels] else [1] * depth
        pattern = list(basis) * depth
        fitting = (n for n in range(depth, -1, -1) if pattern[:n] + [1] * (depth - n) == own)
        count = next(fitting, None)
        if count is None:
            return None
        counts[f"res{STAGES[index]}"] = count
    return counts
