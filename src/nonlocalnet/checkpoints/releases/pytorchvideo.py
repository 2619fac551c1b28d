"""PyTorchVideo's C2D and I3D for Kinetics-400."""

from __future__ import annotations

from collections.abc import Iterator

from nonlocalnet.checkpoints.releases.base import VIEWS, Release


def rows() -> Iterator[Release]:
    """List them."""
    # facebookresearch/pytorchvideo, docs/source/model_zoo.md
    project, license = "PyTorchVideo", "Apache-2.0 (code)"
    for stem, model, top1, top5 in (
        ("C2D_8x8_R50", "c2d_r50", 71.46, 89.68),
        ("I3D_8x8_R50", "i3d_r50", 73.27, 90.70),
    ):
        name = f"{stem}_pytorchvideo"  # the stems are PySlowFast's
        url = f"https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/{stem}.pyth"
        where = f"model_zoo.md of {project}, {VIEWS}"
        yield Release(name, url, project, license, model, "8x8", top1, top5, where)
