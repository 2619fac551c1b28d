"""Released checkpoints: what they are, what their authors report, and how to download them."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nonlocalnet.checkpoints.cache import MIRROR, Report, ensure
from nonlocalnet.checkpoints.cache import sha256_of as sha256_of
from nonlocalnet.checkpoints.releases import (
    feature_banks,
    gluoncv,
    mmaction2,
    pyslowfast,
    pytorchvideo,
    torchvision,
    tsm,
    video_nonlocal_net,
)
from nonlocalnet.checkpoints.releases.base import Release
from nonlocalnet.errors import check_choice

MIB = 1 << 20

RELEASES = tuple(
    release
    for project in (
        video_nonlocal_net,
        pyslowfast,
        feature_banks,
        pytorchvideo,
        mmaction2,
        gluoncv,
        tsm,
        torchvision,
    )
    for release in project.rows()
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
