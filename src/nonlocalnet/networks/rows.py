"""Names and arguments of the paper's video networks, and of small ones for the demo and tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nonlocalnet.networks.families import VIDEO, Row

DEPTHS = {"r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3)}

# After which residual blocks the non-local blocks stand (paper, section 3.3; official code,
# `layer_mod`). One block stands right before a stage's last residual block; R101's ten, which the
# official code cannot express, are spread evenly over res4.
PLACES: dict[str, dict[str, Mapping[str, Sequence[int]]]] = {
    "r50": {
        "": {},
        "_nl1": {"res4": (4,)},
        "_nl1_res2": {"res2": (1,)},
        "_nl1_res3": {"res3": (2,)},
        "_nl1_res5": {"res5": (1,)},
        "_nl5": {"res3": (1, 3), "res4": (1, 3, 5)},
        "_nl10": {"res3": (0, 1, 2, 3), "res4": (0, 1, 2, 3, 4, 5)},
    },
    "r101": {
        "": {},
        "_nl1": {"res4": (21,)},
        "_nl1_res2": {"res2": (1,)},
        "_nl1_res3": {"res3": (2,)},
        "_nl1_res5": {"res5": (1,)},
        "_nl5": {"res3": (1, 3), "res4": (6, 13, 20)},
        "_nl10": {"res3": (0, 1, 2, 3), "res4": (2, 6, 10, 14, 18, 22)},
    },
}

# Small networks of three stages: fields, and where the two blocks of "_nl2" stand.
SMALL: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "tiny": (
        # unscaled: at so few channels the scale keeps the softmax flat for long (docs/results.md)
        {"depths": (1, 2, 1), "widths": (8, 32, 16), "conv1_channels": 16, "scale": None},
        {"res3": (0, 1)},
    ),
    "small": (
        {"depths": (1, 2, 2), "widths": (16, 32, 64), "conv1_channels": 32},
        {"res3": (1,), "res4": (1,)},
    ),
}


def temporal_kernels(depths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Give each block's temporal kernel in an I3D: all of res2, then every second block.

    Source: official code, `obtain_arc`; res5 has its middle block inflated.

    >>> temporal_kernels((3, 4, 6, 3))
    ((3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1))
    """

    def kernel(stage: int, i: int) -> int:
        return 3 if stage == 0 or i % 2 == (stage == 3) else 1

    return tuple(tuple(kernel(stage, i) for i in range(n)) for stage, n in enumerate(depths))


def _paper() -> Iterator[tuple[str, Row]]:
    for depth, depths in DEPTHS.items():
        kernels = temporal_kernels(depths)
        inflations: dict[str, dict[str, Any]] = {
            "c2d": {},
            "i3d": {"conv1_kernel": (5, 7), "kernels_a": kernels},
            "i3d3x3x3": {"conv1_kernel": (5, 7), "kernels_b": kernels},
        }
        for kind, inflation in inflations.items():
            for suffix, places in PLACES[depth].items():
                fields = {"depths": depths, **inflation, "non_local": places}
                yield f"{kind}_{depth}{suffix}", Row(VIDEO, fields, f"c2d_{depth}")


def _small() -> Iterator[tuple[str, Row]]:
    for size, (fields, places) in SMALL.items():
        kernels = temporal_kernels(fields["depths"])
        inflations: dict[str, dict[str, Any]] = {
            "c2d": {"conv1_kernel": (1, 3)},
            "i3d": {"conv1_kernel": (5, 3), "kernels_a": kernels},
        }
        for kind, inflation in inflations.items():
            for suffix, blocks in {"": {}, "_nl2": places}.items():
                row = fields | inflation | {"non_local": blocks}
                yield f"{kind}_{size}{suffix}", Row(VIDEO, row, f"c2d_{size}")


def _long_term_feature_banks() -> Iterator[tuple[str, Row]]:
    """Give the I3D of long-term feature banks, which has the official one's tensors.

    Its stem pool is padded, its frames are reduced by pool2 alone, res5 keeps the resolution of
    res4, and its norms are frozen.

    Source: Wu et al., Long-Term Feature Banks for Detailed Video Understanding, CVPR 2019;
    video-long-term-feature-banks, `resnet_video.py`.
    """
    for depth, depths in DEPTHS.items():
        fields = {
            "depths": depths,
            "conv1_kernel": (5, 7),
            "kernels_a": temporal_kernels(depths),
            "non_local": PLACES[depth]["_nl5"],
            "stem_padding": 1,
            "temporal_stride": 1,
            "strides": (1, 2, 2, 1),
            "dilations": (1, 1, 1, 2),
            "norm": "frozen",
            "clip": "32x2",
        }
        yield f"i3d_{depth}_nl5_lfb", Row(VIDEO, fields, f"c2d_{depth}")


ROWS = dict((*_paper(), *_small(), *_long_term_feature_banks()))
