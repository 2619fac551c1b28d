"""Use an image classifier to compare what the positions of a video show, without training.

The network is the classifier's up to res4, frame by frame, with a plain Gaussian block at its end:
f(x_i, x_j) = exp(20 · cos(x_i, x_j)) on the features themselves, which is non-local means in
feature space. It has no classifier, and nothing is trained for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.translate import Translated

STAGES = ("res2", "res3", "res4")
SHORT_SIDE = 480  # measured: benchmarks/correspondence.py
CLIP = "8x8"
OPTIONS: dict[str, Any] = {
    "pool2_time": 1,  # every frame by itself
    "stem_padding": 1,  # as image classifiers have it
}
SCALE = 20.0  # of cosines; measured, too


def describe_features(
    path: Path, translated: Translated, *, clip: str | None, **options: Any
) -> WeightsInfo:
    """Describe the network that compares positions by the features of an image classifier.

    Args:
        path: the file.
        translated: its content; what is after res4 is taken out.
        clip: "FRAMESxRATE" to look at, by default 8x8.
        options: arguments of `create_model`; num_classes must be 0.

    Raises:
        ValueError: num_classes is not 0, or the file lacks a stage.
    """
    if options.pop("num_classes", None) != 0:
        raise ValueError(
            "it is an image classifier; start a video network from it with "
            "load_weights(model, file, new_classifier=True) or `nonlocalnet train --init`, or pass "
            "num_classes=0 to see what its features relate"
        )
    for prefix in ("fc.", "res5."):
        translated.leave(prefix, "features are compared up to res4")
    shapes = translated.shapes()
    depths = [_depth(shapes, stage) for stage in STAGES]
    if 0 in depths:
        raise ValueError(f"it lacks {STAGES[depths.index(0)]} (layer{depths.index(0) + 1})")
    widths = [shapes[f"{stage}.block0.conv_b.weight"][0] for stage in STAGES]
    config = {
        "name": "c2d_r101" if depths[-1] == 23 else "c2d_r50",
        "num_classes": 0,
        "clip": clip or CLIP,
        "crop": options.pop("crop", 224),
        "depths": depths,
        "widths": widths,
        "conv1_channels": shapes["conv1.weight"][0],
        "insert": [f"res4.block{depths[2] - 1}"],
        # features of length C ** 0.5: x_iᵀx_j is C times their cosine
        "insert_options": {
            "pairwise": "gaussian",
            "pre_norm": "rms",
            "scale": SCALE / (4 * widths[2]),
        },
        **OPTIONS,
        **options,
    }
    translated.stated = ("depths", "widths", "conv1_channels")  # chosen here
    translated.notes.insert(
        0,
        "it is an image classifier: its features are compared, frame by frame, by non-local blocks "
        "that were not trained",
    )
    return WeightsInfo(
        config=config,
        short_side=SHORT_SIDE,
        mean=translated.mean,
        std=translated.std,
        facts={"origin": translated.origin, "file": path.name},
    )


def _depth(shapes: Mapping[str, object], stage: str) -> int:
    """Count the residual blocks of a stage."""
    return len({m[1] for name in shapes if (m := re.match(rf"{stage}\.block(\d+)\.", name))})
