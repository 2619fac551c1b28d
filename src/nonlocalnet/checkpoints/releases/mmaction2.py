"""MMAction2's releases, with non-local blocks and some without.

Source: open-mmlab/mmaction2 1.2.0, README and configurations of each network; the end of a file's
name is the start of its SHA-256 (tools/deployment/publish_model.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from nonlocalnet.checkpoints.releases.base import VIEWS, Release

released = partial(Release, project="MMAction2", license="Apache-2.0 (code)")
BASE = "https://download.openmmlab.com/mmaction"
DOT, EMBEDDED = {"pairwise": "dot_product"}, {"pairwise": "embedded_gaussian"}
GAUSSIAN = {"pairwise": "gaussian"}
SLOW = "slow_r50_nl5_mmaction2"


def rows() -> Iterator[Release]:
    """List them."""
    yield from _i3d()
    yield from _slowonly()
    yield from _tsm()
    yield from _detectors()


def _i3d() -> Iterator[Release]:
    for name, of, how, sha256, top1, top5, options in (
        ("i3d_r50", "", "", "e213c223", 73.47, 91.27, {}),
        ("i3d_r50_dense", "", "dense-", "9f46003f", 73.77, 91.35, {}),
        ("i3d_r50_heavy", "-heavy", "", "ed501b31", 76.21, 92.48, {"temporal_stride": 1}),
        ("i3d_r50_nl_dot_product", "-nl-dot-product", "", "8e1f2148", 74.80, 92.07, DOT),
        ("i3d_r50_nl_embedded", "-nl-embedded-gaussian", "", "afd8f562", 74.73, 91.80, EMBEDDED),
        ("i3d_r50_nl_gaussian", "-nl-gaussian", "", "0c5cbf5a", 73.97, 91.33, {}),
    ):
        stem = f"i3d_imagenet-pretrained-r50{of}_8xb8-{how}32x2x1-100e_kinetics400-rgb"
        yield released(
            name=f"{name}_mmaction2",
            url=f"{BASE}/v1.0/recognition/i3d/{stem}/{stem}_20220812-{sha256}.pth",
            model="i3d_r50_nl5" if "_nl_" in name else "i3d_r50",
            clip="32x2",
            top1=top1,
            top5=top5,
            figure=f"README of MMAction2's I3D, {VIEWS}",
            options=options,
            sha256=sha256,
        )


def _slowonly() -> Iterator[Release]:
    for clip, sha256, top1, top5 in (
        ("4x16", "cf739c75", 75.07, 91.69),
        # its README gives this hash to a file without blocks, too, so it is not checked
        ("8x8", "df42dc84", 76.65, 92.47),
    ):
        stem = (
            f"slowonly_r50-in1k-pre-nl-embedded-gaussian_8xb16-{clip}x1-steplr-150e_kinetics400-rgb"
        )
        yield released(
            name=f"slowonly_r50_nl_embedded_{clip}_mmaction2",
            url=f"{BASE}/v1.0/recognition/slowonly/{stem}/{stem}_20220901-{sha256}.pth",
            model=SLOW,
            clip=clip,
            top1=top1,
            top5=top5,
            figure=f"README of MMAction2's SlowOnly, {VIEWS}",
            options=EMBEDDED,
            sha256=None if clip == "8x8" else sha256,
        )
    # the generation before, named in the configurations of detectors and in the old README
    for clip, sha256, top1, top5 in (
        ("4x16", "0d6e5a69", None, None),
        ("8x8", "e8dd9e82", 76.07, 92.42),
    ):
        stem = f"slowonly_nl_embedded_gaussian_r50_{clip}x1_150e_kinetics400_rgb"
        yield released(
            name=f"slowonly_r50_nl_embedded_{clip}_mmaction2_0x",
            url=f"{BASE}/recognition/slowonly/{stem}/{stem}_20210308-{sha256}.pth",
            model=SLOW,
            clip=clip,
            top1=top1,
            top5=top5,
            figure=f"README of MMAction2's SlowOnly before 1.0, {VIEWS}",
            options=EMBEDDED,
            sha256=sha256,
        )


def _tsm() -> Iterator[Release]:
    views = "8 segments x 10 crops"
    for form, sha256, top1, top5, options in (
        ("dot-product", "108bfde5", 74.49, 91.15, DOT),
        ("gaussian", "7e54dacf", 73.66, 90.99, GAUSSIAN),
        ("embedded-gaussian", "35eddb57", 74.34, 91.23, EMBEDDED),
    ):
        stem = f"tsm_imagenet-pretrained-r50-nl-{form}_8xb16-1x1x8-50e_kinetics400-rgb"
        yield released(
            name=f"tsm_r50_nl_{form.replace('-', '_')}_mmaction2",
            url=f"{BASE}/v1.0/recognition/tsm/{stem}/{stem}_20220831-{sha256}.pth",
            model="tsm_r50_nl5",
            clip="8seg",
            top1=top1,
            top5=top5,
            figure=f"README of MMAction2's TSM, {views}",
            options=options,
            sha256=sha256,
        )
    for form, date, sha256, top1, top5, options in (
        ("dot_product", "20200724", "d8ad84d2", 71.60, 90.34, DOT),
        ("gaussian", "20200816", "b93fd297", 70.70, 89.90, GAUSSIAN),
    ):
        stem = f"tsm_nl_{form}_r50_1x1x8_50e_kinetics400_rgb"
        yield released(
            name=f"tsm_r50_nl_{form}_mmaction2_0x",
            url=f"{BASE}/recognition/tsm/{stem}/{stem}_{date}-{sha256}.pth",
            model="tsm_r50_nl5",
            clip="8seg",
            top1=top1,
            top5=top5,
            figure=f"README of MMAction2's TSM before 1.0, {views}",
            options=options,
            sha256=sha256,
        )


def _detectors() -> Iterator[Release]:
    for clip, sha256, mean_ap in (("4x16", "5ae3f91b", 21.55), ("8x8", "9760eadb", 23.77)):
        stem = f"slowonly_kinetics400-pretrained-r50-nl_8xb16-{clip}x1-20e_ava21-rgb"
        yield released(
            name=f"slowonly_r50_nl_{clip}_ava_mmaction2",
            url=f"{BASE}/v1.0/detection/slowonly/{stem}/{stem}_20220906-{sha256}.pth",
            model=SLOW,
            clip=clip,
            top1=None,
            top5=None,
            figure="README of MMAction2's SlowOnly detectors, AVA 2.1",
            dataset="AVA 2.1",
            options={**EMBEDDED, "strides": (1, 2, 2, 1), "num_classes": 80},
            sha256=sha256,
            scores={"map": mean_ap},
        )
