"""The official releases of video-nonlocal-net, for Kinetics-400."""

from __future__ import annotations

from collections.abc import Iterator

from nonlocalnet.checkpoints.releases.base import VIEWS, Release


def rows() -> Iterator[Release]:
    """List them."""
    # facebookresearch/video-nonlocal-net, README.md, which licenses code and models
    project = "video-nonlocal-net"
    for name, top1, top5 in (
        ("c2d_baseline_32x2_IN_pretrain_400k", 72.0, 90.0),
        ("c2d_nonlocal_32x2_IN_pretrain_400k", 73.9, 91.0),
        ("i3d_baseline_32x2_IN_pretrain_400k", 73.6, 90.8),
        ("i3d_nonlocal_32x2_IN_pretrain_400k", 74.9, 91.6),
        ("i3d_baseline_128x1_I3D_pretrain_400k", 75.2, 92.0),
        ("i3d_nonlocal_128x1_I3D_pretrain_400k", 76.5, 92.7),
        ("c2d_baseline_8x8_IN_pretrain_400k", 71.9, 90.0),
        ("c2d_nonlocal_8x8_IN_pretrain_400k", 74.4, 91.4),
        ("i3d_baseline_8x8_IN_pretrain_400k", 73.4, 90.9),
        ("i3d_nonlocal_8x8_IN_pretrain_400k", 74.7, 91.6),
        ("i3d_baseline_32x4_I3D_pretrain_400k", 75.5, 92.0),
        ("i3d_nonlocal_32x4_I3D_pretrain_400k", 76.5, 92.6),
        ("i3d_baseline_8x8_IN_pretrain_300k", 73.2, 90.8),
        ("i3d_baseline_8x8_IN_pretrain_600k_4gpu", 73.0, 90.4),
        ("i3d_baseline_8x8_IN_pretrain_300k_4gpu", 72.0, 90.1),
    ):
        family, form, clip, *_ = name.split("_")
        model = f"{family}_r50_nl5" if form == "nonlocal" else f"{family}_r50"
        url = f"https://dl.fbaipublicfiles.com/video-nonlocal/{name}.pkl"
        where = f"README of {project}, {VIEWS}"
        yield Release(name, url, project, "CC-BY-NC 4.0", model, clip, top1, top5, where)
