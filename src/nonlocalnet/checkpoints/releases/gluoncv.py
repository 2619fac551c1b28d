"""GluonCV's I3D, as PyTorch files.

Source: dmlc/gluon-cv, docs/model_zoo (Action_Recognitions/Kinetics400_torch.csv); the end of
a file's name is the start of its SHA-1 (gluoncv/torch/model_zoo/model_store.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from nonlocalnet.checkpoints.releases.base import VIEWS, Release

BASE = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/torch/models"


def rows() -> Iterator[Release]:
    """List them."""
    for blocks, depth, sha1, top1 in (
        ("", 50, "18545497", 74.87),
        ("", 101, "a9bb4f89", 75.10),
        ("nl5_", 50, "9df1e103", 75.17),
        ("nl10_", 50, "281e1e8a", 75.93),
        ("nl5_", 101, "2cea8edd", 75.81),
        ("nl10_", 101, "526a2ed0", 75.93),
    ):
        stem = f"i3d_{blocks}resnet{depth}_v1_kinetics400"
        suffix = f"_{blocks[:-1]}" if blocks else ""
        yield Release(
            name=f"{stem}_gluoncv",
            url=f"{BASE}/{stem}-{sha1}.pth",
            project="GluonCV",
            license="Apache-2.0 (code)",
            model=f"i3d_r{depth}{suffix}",
            clip="32x2",
            top1=top1,
            top5=None,
            figure=f"model zoo of GluonCV, {VIEWS}",
        )
