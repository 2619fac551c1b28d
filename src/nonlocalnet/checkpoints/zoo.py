"""Released checkpoints: what they are, what their authors report, and how to download them."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nonlocalnet.checkpoints.cache import MIRROR, Report, ensure
from nonlocalnet.checkpoints.cache import sha256_of as sha256_of
from nonlocalnet.errors import check_choice

MIB = 1 << 20


@dataclass(frozen=True)
class Release:
    """A released checkpoint. The scores are those of its authors; none was measured here.

    Attributes:
        name: unique; the stem of the file, or shorter.
        project: where it comes from.
        license: "(code)" if only the license of the code is stated.
        model: the network in the table (`list_models`), before `options`.
        clip: "FRAMESxRATE"; None for image classifiers.
        dataset: for training and test.
        top1, top5, figure: reported accuracies, and where they are reported.
        scores: reported COCO scores of detectors, in percent.
        options: arguments of the network that the file does not contain.
        sha256: its first digits, as many as the release states.
    """

    name: str
    url: str
    project: str
    license: str
    model: str
    clip: str | None
    top1: float | None
    top5: float | None
    figure: str
    dataset: str = "Kinetics-400"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    sha256: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]

    @property
    def blocks(self) -> int:
        """How many non-local blocks there are."""
        return int(self.model.partition("_nl")[2] or 0)


VIEWS = "10 clips x 3 crops"


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
    ):
        url = f"https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/kinetics400/{name}.pkl"
        where = f"MODEL_ZOO.md of {project}, {VIEWS}"
        options = {"stem_padding": 1, **options}
        row = (name, url, project, license, model, "8x8", top1, top5, where)
        yield Release(*row, options=options)


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


def _mmaction2() -> Iterator[Release]:
    # open-mmlab/mmaction2 1.x, configs/recognition/i3d; tools/deployment/publish_model.py: sha256
    base = "https://download.openmmlab.com/mmaction/v1.0/recognition/i3d"
    dot, embedded = {"pairwise": "dot_product"}, {"pairwise": "embedded_gaussian"}
    for name, of, how, sha256, top1, top5, options in (
        ("i3d_r50", "", "", "e213c223", 73.47, 91.27, {}),
        ("i3d_r50_dense", "", "dense-", "9f46003f", 73.77, 91.35, {}),
        ("i3d_r50_heavy", "-heavy", "", "ed501b31", 76.21, 92.48, {"temporal_stride": 1}),
        ("i3d_r50_nl_dot_product", "-nl-dot-product", "", "8e1f2148", 74.80, 92.07, dot),
        ("i3d_r50_nl_embedded", "-nl-embedded-gaussian", "", "afd8f562", 74.73, 91.80, embedded),
        ("i3d_r50_nl_gaussian", "-nl-gaussian", "", "0c5cbf5a", 73.97, 91.33, {}),
    ):
        stem = f"i3d_imagenet-pretrained-r50{of}_8xb8-{how}32x2x1-100e_kinetics400-rgb"
        yield Release(
            name=f"{name}_mmaction2",
            url=f"{base}/{stem}/{stem}_20220812-{sha256}.pth",
            project="MMAction2",
            license="Apache-2.0 (code)",
            model="i3d_r50_nl5" if "_nl_" in name else "i3d_r50",
            clip="32x2",
            top1=top1,
            top5=top5,
            figure=f"README of MMAction2's I3D, {VIEWS}",
            options=options,
            sha256=sha256,
        )


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
    *_pytorchvideo(),
    *_mmaction2(),
    *_torchvision(),
    *_torchvision_rcnn(),
)


RELEASE_OF = {release.file: release for release in RELEASES}  # by the name of the file


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
