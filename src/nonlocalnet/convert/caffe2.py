"""The official Caffe2 networks' parameters, by rule (video-nonlocal-net, `lib/models`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from nonlocalnet.convert.rules import Rules

# `_riv` is the running variance, in spite of its name.
NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
AFFINE = {"w": "weight", "b": "bias"}


def _rules() -> Iterator[tuple[str, str]]:
    yield "conv1_w", "conv1.weight"
    block, non_local = "res{s}.block{i}", "res{s}.non_local{i}"
    for branch in "abc":
        yield f"res{{s}}_{{i}}_branch2{branch}_w", f"{block}.conv_{branch}.weight"
    yield "res{s}_{i}_branch1_w", f"{block}.shortcut.conv.weight"
    for theirs, ours in NORM.items():
        yield f"res_conv1_bn_{theirs}", f"norm1.{ours}"
        for branch in "abc":
            yield f"res{{s}}_{{i}}_branch2{branch}_bn_{theirs}", f"{block}.norm_{branch}.{ours}"
        yield f"res{{s}}_{{i}}_branch1_bn_{theirs}", f"{block}.shortcut.norm.{ours}"
        yield f"nonlocal_conv{{s}}_{{i}}_bn_{theirs}", f"{non_local}.norm.{ours}"
    for theirs, ours in AFFINE.items():
        for name in ("theta", "phi", "g"):
            yield f"nonlocal_conv{{s}}_{{i}}_{name}_{theirs}", f"{non_local}.{name}.{ours}"
        yield f"nonlocal_conv{{s}}_{{i}}_out_{theirs}", f"{non_local}.w_z.{ours}"
        yield f"pred_{theirs}", f"fc.{ours}"


RULES = Rules(_rules())


def to_state_dict(blobs: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Turn official blobs (name -> array) into our state dict and the names that no rule knows.

    `pred_w` is (K, C), or (K, C, 1, 1, 1) in the test net: the same numbers, for our linear fc.
    """
    state, unknown = {}, []
    for name, array in blobs.items():
        ours = RULES.to_ours(name)
        if ours is None:
            unknown.append(name)
        else:
            value = torch.as_tensor(array)
            state[ours] = value.flatten(1) if ours == "fc.weight" else value
    return state, unknown
