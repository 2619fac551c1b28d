"""The 3-D networks of the long-term feature banks, without a feature bank."""

from __future__ import annotations

from collections.abc import Iterator

from nonlocalnet.checkpoints.releases.base import Release


def rows() -> Iterator[Release]:
    """List them."""
    # facebookresearch/video-long-term-feature-banks, README.md, INSTALL.md and configs/*_baseline:
    # its 3D CNNs without a feature bank, all affine
    project = "video-long-term-feature-banks"
    base = f"https://dl.fbaipublicfiles.com/{project}"
    for name, file, depth, clip, dataset, classes, dilation, top1, top5, mean_ap in (
        ("kinetics400", "r50_k400_pretrained", "r50", "32x2", "Kinetics-400", 400, 2, *[None] * 3),
        (
            "kinetics400",
            "r101_k400_pretrained",
            "r101",
            "32x2",
            "Kinetics-400",
            400,
            2,
            *[None] * 3,
        ),
        ("ava", "102760666/model_final", "r50", "32x2", "AVA", 80, 2, None, None, 22.2),
        ("ava", "102760714/model_final", "r101", "32x2", "AVA", 80, 2, None, None, 23.2),
        ("charades", "102766107/model_final", "r50", "32x4", "Charades", 157, 2, None, None, 38.3),
        ("charades", "103560426/model_final", "r101", "32x4", "Charades", 157, 1, None, None, 40.4),
        (
            "epic_verbs",
            "103704809/model_final",
            "r50",
            "32x2",
            "EPIC verbs",
            125,
            1,
            50.7,
            81.1,
            None,
        ),
        (
            "epic_nouns",
            "104421642/model_final",
            "r50",
            "32x2",
            "EPIC nouns",
            352,
            1,
            26.2,
            51.0,
            None,
        ),
    ):
        yield Release(
            name=f"lfb_{name}_{depth}",
            url=f"{base}/{file}.pkl",
            project=project,
            license="Apache-2.0 (code)",
            model=f"i3d_{depth}_nl5_lfb",
            clip=clip,
            top1=top1,
            top5=top5,
            figure=f"README of {project}, 3D CNN",
            dataset=dataset,
            options={"num_classes": classes, "dilations": (1, 1, 1, dilation)},
            scores={"map": mean_ap} if mean_ap else {},
            saved=f"lfb_{name}_{depth}.pkl" if "/" in file else "",
        )
