"""Infer arguments of a video network from the shapes of its tensors, under our names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nonlocalnet.checkpoints.lazy_tensor import LazyTensor

MAX_STAGES = 8  # the paper's networks have four
FAST = "fast."  # begins the names of the fast pathway of a SlowFast network
Shapes = Mapping[str, tuple[int, ...]]


def infer(
    tensors: Mapping[str, LazyTensor], *, slow: bool = False, backbone: bool = False
) -> dict[str, Any]:
    """Infer arguments of `VideoResNet`, or of `SlowFast`, from the shapes of a video network.

    Shapes do not show temporal strides, spatial strides and dilation, padding, scale, pooling of
    keys, and whether an embedded form is the Gaussian or the dot product.

    Args:
        tensors: under our names.
        slow: whether the project has Slow and SlowFast networks.
        backbone: whether the network has no classifier; then num_classes is not inferred.

    Raises:
        ValueError: it is not a complete network of a known kind.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    classifier = shapes.get("fc.weight", (0, 0) if backbone else None)
    if classifier is None:
        raise ValueError("it has no classifier: not a complete C2D or I3D network")
    if len(classifier) != 2:
        raise ValueError("its stem or classifier has too many or too few axes for a video network")
    fields: dict[str, Any] = {} if backbone else {"num_classes": classifier[0]}
    fields |= {**_infer_pathway(shapes), "shift_div": None}
    fields["norm"] = "frozen"
    if _any(shapes, r"(norm1|.*\.norm_[abc])\.running_mean"):
        fields["norm"] = "batch"
    if slow and _any(shapes, re.escape(FAST)):
        fields |= _infer_fast(shapes, fields)
    elif not (slow and is_slow(fields)):
        _check_inflation(fields)
    if fields["non_local"]:
        fields |= _block(shapes)
    return fields


def _infer_pathway(shapes: Shapes) -> dict[str, Any]:
    """Infer the structure of the stem and the stages."""
    stem = shapes.get("conv1.weight")
    if stem is None:
        raise ValueError("it has no stem: not a complete C2D or I3D network")
    if len(stem) != 5:
        raise ValueError("its stem or classifier has too many or too few axes for a video network")
    depths, widths, kernels_a, kernels_b = [], [], [], []
    places: dict[str, tuple[int, ...]] = {}
    stages = _count(shapes, r"(res\d+)\.", first=2, prefix="res")
    if len(stages) > MAX_STAGES:
        raise ValueError(f"it has {len(stages)} stages: not a C2D or I3D network")
    for stage in stages:
        depth = len(_count(shapes, rf"{stage}\.block(\d+)\."))
        a, b = (_kernels(shapes, stage, depth, conv) for conv in ("conv_a", "conv_b"))
        widths.append(shapes.get(f"{stage}.block0.conv_a.weight", (0,))[0])
        depths.append(depth)
        kernels_a.append(a)
        kernels_b.append(b)
        found = {int(i) for key in shapes for i in re.findall(rf"^{stage}\.non_local(\d+)\.", key)}
        if found:
            places[stage] = tuple(sorted(found))
    if not depths:
        raise ValueError("it has no residual stages: not a C2D or I3D network")
    return {
        "depths": tuple(depths),
        "widths": tuple(widths),
        "conv1_channels": stem[0],
        "conv1_kernel": (stem[2], stem[3]),
        "kernels_a": tuple(kernels_a),
        "kernels_b": tuple(kernels_b),
        "non_local": places,
    }


def _infer_fast(shapes: Shapes, slow: Mapping[str, Any]) -> dict[str, Any]:
    """Infer the arguments of `SlowFast` that the fast pathway and the lateral convolutions show.

    Raises:
        ValueError: the pathways do not fit each other, or a lateral convolution is missing.
    """
    cut = len(FAST)
    fast = _infer_pathway({k[cut:]: v for k, v in shapes.items() if k.startswith(FAST)})
    lateral = shapes.get("lateral.pool1.conv.weight", ())
    if fast["depths"] != slow["depths"] or len(lateral) != 5:
        raise ValueError("it has two pathways but is no complete SlowFast network")
    return {
        "beta": max(slow["conv1_channels"] // max(fast["conv1_channels"], 1), 1),
        "lateral_kernel": lateral[2],
        "lateral_ratio": max(lateral[0] // max(lateral[1], 1), 1),
        "fast_conv1_kernel": fast["conv1_kernel"],
        "fast_kernels_a": fast["kernels_a"],
        "non_local": slow["non_local"] | {FAST + k: v for k, v in fast["non_local"].items()},
    }


def is_slow(fields: Mapping[str, Any]) -> bool:
    """Tell whether temporal kernels are those of Slow: in late stages alone."""
    early = max(fields["conv1_kernel"][0], *fields["kernels_a"][0])
    return early == 1 and any(k > 1 for stage in fields["kernels_a"] for k in stage)


def _block(shapes: Shapes) -> dict[str, Any]:
    """Infer the options of the non-local blocks."""
    fields: dict[str, Any] = {}
    inside = r"(fast\.)?res\d+\.non_local\d+\."
    if not _any(shapes, inside + r"(theta|phi)\."):
        fields["pairwise"] = "gaussian"
    elif _any(shapes, inside + "w_f"):
        fields["pairwise"] = "concatenation"
    if _any(shapes, inside + r"norm\.running_mean"):
        fields["block_norm"] = "batch"
    else:
        fields["block_norm"] = "frozen" if _any(shapes, inside + r"norm\.") else None
    fields["bias"] = _any(shapes, inside + r"(theta|phi|g|w_z)\.bias")
    return fields


def _any(shapes: Shapes, pattern: str) -> bool:
    return any(re.match(pattern, key) for key in shapes)


def _count(shapes: Iterable[str], pattern: str, first: int = 0, prefix: str = "") -> list[str]:
    """List the names that the pattern finds, from the first number on without a gap."""
    found = {name for key in shapes for name in re.findall("^" + pattern, key)}
    names = [f"{prefix}{i}" for i in range(first, first + len(found))]
    return [name for name in names if name in found]


def _kernels(shapes: Shapes, stage: str, depth: int, conv: str) -> tuple[int, ...]:
    """List the temporal kernels of a stage; 1 if the file lacks a convolution (reported later)."""
    found = (shapes.get(f"{stage}.block{i}.{conv}.weight", ()) for i in range(depth))
    return tuple(shape[2] if len(shape) == 5 else 1 for shape in found)


def _check_inflation(fields: Mapping[str, Any]) -> None:
    """Refuse temporal kernels that are neither C2D's (none) nor I3D's (in the stem and in res2).

    A Slow network (`is_slow`) also lacks pool2, which no shape shows: as an I3D it would give wrong
    numbers.
    """
    inflated = {
        "conv1": fields["conv1_kernel"][0] > 1,
        "res2": max(*fields["kernels_a"][0], *fields["kernels_b"][0]) > 1,
        "later": max(k for x in "ab" for stage in fields[f"kernels_{x}"] for k in stage) > 1,
    }
    if len(set(inflated.values())) > 1:
        raise ValueError(
            "its temporal kernels are neither C2D's (none) nor I3D's (conv1, res2 and later): "
            f"conv1 {fields['conv1_kernel'][0]}, stages {fields['kernels_a']}; Slow and SlowFast "
            "networks of this origin are not supported"
        )
