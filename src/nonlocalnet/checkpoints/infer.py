"""Which network a set of parameters belongs to, from their names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MOST_STAGES = 8  # the paper's have four
Shapes = Mapping[str, tuple[int, ...]]


def infer(shapes: Shapes) -> dict[str, Any]:
    """Tell the arguments of `VideoResNet` from a video network's state dict in our names.

    What shapes do not show is left out: temporal strides, padding, scale, pooling of keys, and
    whether an embedded form is the Gaussian or the dot product.

    Raises:
        ValueError: no whole C2D or I3D network.
    """
    stem = shapes.get("conv1.weight")
    if stem is None or "fc.weight" not in shapes:
        missing = "stem" if stem is None else "classifier"
        raise ValueError(f"it has no {missing}: not a whole C2D or I3D network")
    if len(stem) != 5 or len(shapes["fc.weight"]) != 2:
        raise ValueError("its stem or classifier has too many or too few axes for a video network")
    depths, widths, kernels_a, kernels_b = [], [], [], []
    places: dict[str, tuple[int, ...]] = {}
    stages = _count(shapes, r"(res\d+)\.", first=2, prefix="res")
    if len(stages) > MOST_STAGES:
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
    fields = {
        "num_classes": shapes["fc.weight"][0],
        "depths": tuple(depths),
        "widths": tuple(widths),
        "conv1_channels": stem[0],
        "conv1_kernel": (stem[2], stem[3]),
        "kernels_a": tuple(kernels_a),
        "kernels_b": tuple(kernels_b),
        "non_local": places,
        "norm": "batch" if _any(shapes, r"(norm1|.*\.norm_[abc])\.running_mean") else "frozen",
    }
    _check_inflation(fields)
    if places:
        fields |= _block(shapes)
    return fields


def _block(shapes: Shapes) -> dict[str, Any]:
    """What the non-local blocks show of their options."""
    fields: dict[str, Any] = {}
    inside = r"res\d+\.non_local\d+\."
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
    """The names that the pattern finds, from the first on without a gap."""
    found = {name for key in shapes for name in re.findall("^" + pattern, key)}
    names = [f"{prefix}{i}" for i in range(first, first + len(found))]
    return [name for name in names if name in found]


def _kernels(shapes: Shapes, stage: str, depth: int, conv: str) -> tuple[int, ...]:
    """Temporal kernels of a stage's convolutions; 1 where the file lacks one, as will be said."""
    found = (shapes.get(f"{stage}.block{i}.{conv}.weight", ()) for i in range(depth))
    return tuple(shape[2] if len(shape) == 5 else 1 for shape in found)


def _check_inflation(fields: Mapping[str, Any]) -> None:
    """C2D has no temporal kernel; I3D has one in the stem, and in res2.

    A Slow pathway (temporal kernels late, none in the stem) has no pool2 either, which no shape
    shows: taken for an I3D it would give wrong numbers.
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
            "networks are not among the paper's"
        )
