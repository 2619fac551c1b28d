"""Released checkpoints: what they are, what their authors report, and how to download them."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nonlocalnet.checkpoints.cache import MIRROR, Report, ensure
from nonlocalnet.checkpoints.cache import sha256_of as sha256_of
from nonlocalnet.checkpoints.releases import gluoncv, mmaction2, tsm
from nonlocalnet.checkpoints.releases.base import VIEWS, Release
from nonlocalnet.errors import check_choice

MIB = 1 << 20


def _official() -> Iterator[Release]:
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


def _pyslowfast() -> Iterator[Release]:
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


def _long_term_feature_banks() -> Iterator[Release]:
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


def _pytorchvideo() -> Iterator[Release]:
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


def _torchvision() -> Iterator[Release]:
    # torchvision 0.26, models/resnet.py; its README leaves the license of weights to their data
    for depth, sha256, top1, top5 in (
        (50, "0676ba61", 76.130, 92.862),
        (101, "63fe2227", 77.374, 93.546),
    ):
        yield Release(
            name=f"resnet{depth}_imagenet",
            url=f"https://download.pytorch.org/models/resnet{depth}-{sha256}.pth",
            project="torchvision",
            license="BSD-3-Clause (code)",
            model=f"c2d_r{depth}",
            clip=None,
            top1=top1,
            top5=top5,
            figure=f"torchvision, ResNet{depth}_Weights.IMAGENET1K_V1, a center crop",
            dataset="ImageNet-1k",
            sha256=sha256,
        )


def _torchvision_rcnn() -> Iterator[Release]:
    # torchvision 0.26, models/detection/{mask,keypoint}_rcnn.py
    for name, model, stem, enum, reported in (
        (
            "maskrcnn_resnet50_fpn",
            "mask_rcnn_r50_fpn",
            "maskrcnn_resnet50_fpn_coco-bf2d0c1e",
            "MaskRCNN_ResNet50_FPN_Weights.COCO_V1",
            {"bbox_AP": 37.9, "segm_AP": 34.6},
        ),
        (
            "keypointrcnn_resnet50_fpn",
            "keypoint_rcnn_r50_fpn",
            "keypointrcnn_resnet50_fpn_coco-fc266e95",
            "KeypointRCNN_ResNet50_FPN_Weights.COCO_V1",
            {"bbox_AP": 54.6, "keypoints_AP": 65.0},
        ),
    ):
        yield Release(
            name=f"{name}_coco",
            url=f"https://download.pytorch.org/models/{stem}.pth",
            project="torchvision",
            license="BSD-3-Clause (code)",
            model=model,
            clip=None,
            top1=None,
            top5=None,
            figure=f"torchvision, {enum}, COCO val2017",
            dataset="COCO 2017",
            sha256=stem.rpartition("-")[2],
            scores=reported,
        )


RELEASES = (
    *_official(),
    *_pyslowfast(),
    *_long_term_feature_banks(),
    *_pytorchvideo(),
    *mmaction2.rows(),
    *gluoncv.rows(),
    *tsm.rows(),
    *_torchvision(),
    *_torchvision_rcnn(),
)


RELEASE_OF = {release.file: release for release in RELEASES}  # by the name of the file
VAGUE = ("model_final.pkl",)  # names of files that say nothing without their folder


def releases_of(path: Path) -> list[Release]:
    """List the releases that a file may be, by its name here or that in the URL; likely ones first.

    A name that any project may give its files counts in the folder of the URL alone.
    """
    ends = "/".join(path.parts[-2:])
    found = [r for r in RELEASES if r.file == path.name or r.url.endswith(f"/{ends}")]
    if path.name not in VAGUE:
        found += [r for r in RELEASES if r.url.endswith(f"/{path.name}")]
    return list(dict.fromkeys(found))


def list_releases(pattern: str = "*") -> list[Release]:
    """List the releases whose names match a shell pattern, in the order of the table.

    >>> [release.name for release in list_releases("resnet*")]
    ['resnet50_imagenet', 'resnet101_imagenet']
    """
    return [release for release in RELEASES if fnmatch.fnmatchcase(release.name, pattern)]


def find_release(name: str) -> Release:
    """Find a release by name.

    Raises:
        ValueError: there is none of that name; with the nearest names.
    """
    releases = {release.name: release for release in RELEASES}
    check_choice("release", name, releases)
    return releases[name]


def cache_folder() -> Path:
    """Return the cache folder: $NONLOCALNET_CACHE, or nonlocalnet in the user's cache folder."""
    if folder := os.environ.get("NONLOCALNET_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nonlocalnet"


def get(
    name: str,
    *,
    folder: str | os.PathLike | None = None,
    mirror: str | os.PathLike | None = None,
    on_progress: Report | None = None,
) -> Path:
    """Return the file of a release, downloading it if necessary; interrupted downloads continue.

    Its SHA-256 must be the one that the release states, if any, and the one of the first download.

    Args:
        name: of the release.
        folder: where to store it; by default `cache_folder()`.
        mirror: where to get it instead: a local file, a folder that contains it, or a base URL to
            which the name of the file is appended.
        on_progress: called with the bytes so far and the size, or None if the size is unknown.

    Raises:
        ValueError: an unknown name; no such mirror; a file with another SHA-256, or too long.
        OSError: the server or the folder cannot be used, or the connection ends early.
    """
    release = find_release(name)
    path = (Path(folder) if folder is not None else cache_folder()) / release.file
    source = release.url if mirror is None or path.is_file() else _source(release, mirror)
    ensure(path, source, release.sha256, on_progress or (lambda done, size: None))
    return path


def _source(release: Release, mirror: str | os.PathLike) -> str | Path:
    """Return the URL or the local file of a release on a mirror."""
    if urlsplit(os.fspath(mirror)).scheme in ("http", "https"):
        return f"{os.fspath(mirror).rstrip('/')}/{release.file}"
    path = Path(mirror).expanduser()
    path = path / release.file if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"there is no file {path} to take {release.name} from; {MIRROR}")
    return path


def find_weights(weights: str | os.PathLike) -> Path:
    """Return the file of that name, or download the release of that name.

    Raises:
        ValueError, OSError: as `get`. Any other name is returned as a path, for the reader to
            refuse.
    """
    path = Path(weights)
    known = {release.name for release in RELEASES}
    return path if path.exists() or str(weights) not in known else download(str(weights))


def download(name: str, **where: Any) -> Path:
    """Download a release (`get`) with a progress bar in MiB."""
    from nonlocalnet.runtime.log import Bar

    bar: Bar | None = None

    def show(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            bar = Bar(f"{name} (MiB)", (total or 0) // MIB, done // MIB).__enter__()
        bar.advance(done // MIB - bar.done)

    try:
        return get(name, on_progress=show, **where)
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)
