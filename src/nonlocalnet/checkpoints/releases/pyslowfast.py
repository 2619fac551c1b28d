"""PySlowFast's releases for Kinetics and AVA, as Caffe2 pickles."""

from __future__ import annotations

from collections.abc import Iterator

from nonlocalnet.checkpoints.releases.base import VIEWS, Release


def rows() -> Iterator[Release]:
    """List them."""
    # facebookresearch/SlowFast, MODEL_ZOO.md; for the options its video_model_builder.py
    project, license = "PySlowFast", "Apache-2.0 (code)"
    for name, model, top1, top5, options in (
        ("C2D_NOPOOL_8x8_R50", "c2d_r50", 67.2, 87.8, {"pool2_time": 1}),
        ("I3D_8x8_R50", "i3d_r50", 73.5, 90.8, {}),
        ("I3D_NLN_8x8_R50", "i3d_r50_nl5", 74.0, 91.1, {}),
        ("SLOWONLY_4x16_R50", "slow_r50", 72.7, 90.3, {}),
        ("SLOWONLY_8x8_R50", "slow_r50", 74.8, 91.6, {}),
        ("SLOWFAST_4x16_R50", "slowfast_4x16_r50", 75.6, 92.0, {}),
        ("SLOWFAST_8x8_R50", "slowfast_8x8_r50", 77.0, 92.6, {}),
    ):
        url = f"https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/kinetics400/{name}.pkl"
        where = f"MODEL_ZOO.md of {project}, {VIEWS}"
        options = {"stem_padding": 1, **options}
        clip = "32x2" if "slowfast" in model else name.split("_")[-2]
        row = (name, url, project, license, model, clip, top1, top5, where)
        yield Release(*row, options=options)
    # configs/AVA/c2: the last stage is dilated; that its pretraining has blocks is inferred
    ava = {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)}
    for stem, clip, version, score in (
        ("SLOWFAST_32x2_R101_50_50_v2.1", "32x2", "2.1", 28.2),
        ("SLOWFAST_32x2_R101_50_50", "32x2", "2.2", 29.1),
        ("SLOWFAST_64x2_R101_50_50", "64x2", "2.2", 29.4),
    ):
        name = stem.replace(".", "_")
        folder = "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/ava"
        model, pools = "slowfast_16x8_r101_nl3", {"subsample": (2, 2, 2), "stem_padding": 1}
        yield Release(
            name=f"{name}_ava",
            url=f"{folder}/{stem}.pkl",
            project=project,
            license=license,
            model=model,
            clip=clip,
            top1=None,
            top5=None,
            figure=f"MODEL_ZOO.md of {project}, AVA {version}",
            dataset=f"AVA {version}",
            options={**pools, **ava, "num_classes": 80},
            scores={"map": score},
        )
        yield Release(
            name=f"{name}_kinetics600",
            url=f"{folder}/pretrain/{stem}.pkl",
            project=project,
            license=license,
            model=model,
            clip=clip,
            top1=None,
            top5=None,
            figure=f"MODEL_ZOO.md of {project} states no accuracy",
            dataset="Kinetics-600",
            options={**pools, "num_classes": 600},
            saved=f"{name}_kinetics600.pkl",
        )
