"""TSM's own releases for Kinetics-400 that were trained on dense clips.

Source: mit-han-lab/temporal-shift-module, README.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from nonlocalnet.checkpoints.releases.base import VIEWS, Release

BASE = "https://hanlab18.mit.edu/projects/tsm/models"


def rows() -> Iterator[Release]:
    """List them."""
    for suffix, model, top1 in (("", "tsm_r50", 74.1), ("_nl", "tsm_r50_nl5", 75.6)):
        stem = f"TSM_kinetics_RGB_resnet50_shift8_blockres_avg_segment8_e100_dense{suffix}"
        yield Release(
            name=stem,
            url=f"{BASE}/{stem}.pth",
            project="TSM",
            license="MIT (code)",
            model=model,
            clip="8x8",
            top1=top1,
            top5=None,
            figure=f"README of TSM, {VIEWS}",
        )
