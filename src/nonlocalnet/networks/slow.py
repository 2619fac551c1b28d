"""Slow and SlowFast: one file of rows.

Slow, or SlowOnly, is the slow pathway of SlowFast alone, a ResNet without temporal pooling or
stride: conv1 1x7x7, a padded stem pool, no pool2, and temporal kernels (3x1x1, in every block) in
res4 and res5 alone. Its versions with non-local blocks differ in form, in places and in where the
keys are pooled. In SlowFast the slow pathway has the blocks.

Source: Feichtenhofer et al., SlowFast Networks, ICCV 2019, table 1; MMAction2 (`slowonly_r50_*`,
`slowonly_*_nl_embedded_gaussian`); PySlowFast (`SLOW_8x8_R50`, `SLOW_NLN_8x8_R50`,
`SLOWFAST_8x8_R50`, `SLOWFAST_NLN_8x8_R50`, `SLOWFAST_NLN_16x8_R101_50_50` ...).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from nonlocalnet.networks.families import VIDEO, Row
from nonlocalnet.networks.registry import find_row
from nonlocalnet.networks.rows import DEPTHS, PLACES

SLOWFAST = dataclasses.replace(
    VIDEO,
    name="SlowFast",
    places={
        **VIDEO.places,
        "network": ".networks.slowfast:SlowFast",
        "defaults": ".networks.slow:train_defaults",
    },
    costs="its own clip, {crop} x {crop}, 400 classes; ratio to SlowFast without blocks",
)
# PySlowFast's numbers of blocks of each stage that have temporal kernels: all, but in res4 of R101
# the first 6 of 23
TEMPORAL = {"r50": (3, 4, 6, 3), "r101": (3, 4, 6, 3)}
SLOW, FAST = (1, 1, 3, 3), (3, 3, 3, 3)  # temporal kernels of res2 to res5


def _kernels(sizes: tuple[int, ...], depth: str, counts: tuple[int, ...]) -> Any:
    """Give each block's temporal kernel: that of its stage in the first `counts` blocks, then 1."""
    return tuple(
        (size,) * count + (1,) * (blocks - count)
        for size, count, blocks in zip(sizes, counts, DEPTHS[depth], strict=True)
    )


def _slow(depth: str, **blocks: Any) -> dict[str, Any]:
    return {
        "depths": DEPTHS[depth],
        "kernels_a": _kernels(SLOW, depth, DEPTHS[depth]),
        "stem_padding": 1,
        "pool2_time": 1,
        "temporal_stride": 1,  # for dense clips, too
        "non_local": {},
        **blocks,
    }


def _slowfast() -> Iterator[tuple[str, Row]]:
    """Name them as PySlowFast does, for the slow pathway's clip; `clip` is the fast pathway's."""
    for name, depth, clip, alpha, places in (
        ("slowfast_4x16_r50", "r50", "32x2", 8, PLACES["r50"]["_nl5"]),
        ("slowfast_8x8_r50", "r50", "32x2", 4, PLACES["r50"]["_nl5"]),
        ("slowfast_16x8_r101", "r101", "64x2", 4, {"res4": (6, 13, 20)}),
    ):
        fields = {
            **_slow(depth, kernels_a=_kernels(SLOW, depth, TEMPORAL[depth])),
            "fast_kernels_a": _kernels(FAST, depth, TEMPORAL[depth]),
            "alpha": alpha,
            "clip": clip,
        }
        count = sum(map(len, places.values()))
        blocks = {"non_local": places, "pairwise": "dot_product"}
        yield name, Row(SLOWFAST, fields)
        yield f"{name}_nl{count}", Row(SLOWFAST, fields | blocks, name)


def train_defaults(name: str) -> dict[str, Any]:
    """Return the options of training that fit a SlowFast network: its clip, crop and short side."""
    return {"clip": find_row(name).fields["clip"], "crop": 224, "short_side": (256, 320)}


ROWS = {
    "slow_r50": Row(VIDEO, _slow("r50")),
    # PySlowFast's: dot product, the paper's places, keys pooled before the projections
    "slow_r50_nl5": Row(
        VIDEO,
        _slow("r50", non_local=PLACES["r50"]["_nl5"], pairwise="dot_product"),
        "slow_r50",
    ),
    # MMAction2's: keys pooled after the projections
    "slow_r50_nl5_mmaction2": Row(
        VIDEO,
        _slow(
            "r50",
            non_local={"res3": (0, 2), "res4": (0, 2, 4)},
            subsample_position="after",
        ),
        "slow_r50",
    ),
    "slow_r101": Row(VIDEO, _slow("r101")),
    **dict(_slowfast()),
}
