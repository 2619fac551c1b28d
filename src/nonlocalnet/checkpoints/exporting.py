"""Parts of all exports to the formats of other code bases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.report import differ
from nonlocalnet.checkpoints.translate import Rules

DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
# What all of them have; blocks are compared where there are some.
NETWORK: dict[str, Any] = {
    "norm": "batch",
    "dilations": (1, 1, 1, 1),
    "stem_padding": 1,
    "window": None,
}
BLOCKS: dict[str, Any] = {
    "extent": "spacetime",
    "temporal_group": None,
    "block_norm": "batch",
    "bias": True,
}


def require(project: str, arguments: Mapping[str, Any], needed: Mapping[str, Any]) -> None:
    """Check that a network has what all networks of a project have.

    Args:
        project: its name, for the message.
        arguments: all of the network.
        needed: argument -> value, over those of `NETWORK` and `BLOCKS`.

    Raises:
        ValueError: it has something else.
    """
    common = NETWORK | (BLOCKS if arguments["non_local"] else {})
    for name, value in {**common, **needed}.items():
        given = arguments[name]
        if name == "block_norm" and given == "auto":
            given = "batch" if arguments["norm"] == "batch" else None
        if differ(name, given, value):
            raise ValueError(f"{project}'s networks have {name}={value!r}; this one {given!r}")


def depth_of(project: str, arguments: Mapping[str, Any]) -> int:
    """Return the layers of a ResNet.

    Raises:
        ValueError: it is none with bottlenecks of the usual depths.
    """
    depths = tuple(arguments["depths"])
    if depths not in DEPTHS:
        raise ValueError(f"{project} has ResNet-50, -101 and -152; this network has {depths}")
    return DEPTHS[depths]


def rename_back(
    project: str, rules: Rules, state: Mapping[str, LazyTensor]
) -> dict[str, LazyTensor]:
    """Give all tensors their names.

    Raises:
        ValueError: a tensor has no name there.
    """
    result = {}
    for name, entry in state.items():
        theirs = rules.to_theirs(name)
        if theirs is None:
            raise ValueError(f"{project}'s networks have nothing like {name}")
        result[theirs] = entry
    return result
