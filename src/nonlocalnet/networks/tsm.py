"""TSM, the Temporal Shift Module in a ResNet, without and with non-local blocks: one file of rows.

A C2D that never pools or strides over time. The first convolution of each residual block reads
1/8 of its channels from the next frame and 1/8 from the previous one (`blocks/shift.py`); of a
ResNet-101, only every second block does. The classifier scores each frame, and the scores are
averaged. As frames it takes segments (clip "8seg"), or dense clips ("8x8").

Source: Lin et al., TSM: Temporal Shift Module, ICCV 2019; its code (`TSM_kinetics_*_dense_nl`, the
blocks unscaled); MMAction2 (`tsm_*_r50-nl-*`, three pairwise functions).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from nonlocalnet.networks.families import VIDEO, Row
from nonlocalnet.networks.rows import DEPTHS

TSM = dataclasses.replace(
    VIDEO,
    name="TSM",
    places={**VIDEO.places, "defaults": ".networks.tsm:train_defaults"},
    costs="8 segments, {crop} x {crop}, 400 classes; ratio to TSM without blocks",
)
CLIP = "8seg"
PLACES = {"res3": (0, 2), "res4": (0, 2, 4)}


def _fields(depth: str, **blocks: Any) -> dict[str, Any]:
    return {
        "clip": CLIP,
        "depths": DEPTHS[depth],
        "shift_div": 8,
        "stem_padding": 1,
        "pool1_time": 1,
        "pool2_time": 1,
        "temporal_stride": 1,  # for dense clips, too
        "window": None,
        "non_local": {},
        **blocks,
    }


def train_defaults(name: str) -> dict[str, Any]:
    """Return the options of training that fit a TSM: its clip, crop and short side."""
    return {"clip": CLIP, "crop": 224, "short_side": (256, 320)}


ROWS = {
    "tsm_r50": Row(TSM, _fields("r50")),
    "tsm_r50_nl5": Row(
        TSM,
        _fields("r50", non_local=PLACES, subsample_position="after", scale=None),
        "tsm_r50",
    ),
    "tsm_r101": Row(TSM, _fields("r101")),
}
