"""SlowOnly, the Slow pathway of SlowFast alone: one file of rows.

A ResNet without temporal pooling or stride: conv1 1x7x7, a padded stem pool, no pool2, and
temporal kernels (3x1x1, in every block) in res4 and res5 alone. Its two versions with non-local
blocks differ in form, in places and in where the keys are pooled.

Source: Feichtenhofer et al., SlowFast Networks, ICCV 2019, table 1; MMAction2 (`slowonly_r50_*`,
`slowonly_*_nl_embedded_gaussian`); PySlowFast (`SLOW_8x8_R50`, `SLOW_NLN_8x8_R50`).
"""

from __future__ import annotations

from typing import Any

from nonlocalnet.networks.families import VIDEO, Row
from nonlocalnet.networks.rows import DEPTHS, PLACES


def _fields(depth: str, **blocks: Any) -> dict[str, Any]:
    depths = DEPTHS[depth]
    kernels = tuple((3 if stage >= 2 else 1,) * count for stage, count in enumerate(depths))
    return {
        "depths": depths,
        "kernels_a": kernels,
        "stem_padding": 1,
        "pool2_time": 1,
        "temporal_stride": 1,  # for dense clips, too
        "non_local": {},
        **blocks,
    }


ROWS = {
    "slow_r50": Row(VIDEO, _fields("r50")),
    # PySlowFast's: dot product, the paper's places, keys pooled before the projections
    "slow_r50_nl5": Row(
        VIDEO,
        _fields("r50", non_local=PLACES["r50"]["_nl5"], pairwise="dot_product"),
        "slow_r50",
    ),
    # MMAction2's: keys pooled after the projections
    "slow_r50_nl5_mmaction2": Row(
        VIDEO,
        _fields(
            "r50",
            non_local={"res3": (0, 2), "res4": (0, 2, 4)},
            subsample_position="after",
        ),
        "slow_r50",
    ),
    "slow_r101": Row(VIDEO, _fields("r101")),
}
