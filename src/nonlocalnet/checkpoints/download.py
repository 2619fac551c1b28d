"""Weights by file or by the name of a release, downloaded with a bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nonlocalnet.checkpoints.zoo import get, list_releases
from nonlocalnet.runtime.log import Bar

MIB = 1 << 20


def find_weights(weights: str | Path) -> Path:
    """Give the file of that name, or get the release.

    Raises:
        ValueError, OSError: as `models.zoo.get`. A name that is neither stays a path, for the
            reader to refuse.
    """
    path = Path(weights)
    known = {release.name for release in list_releases()}
    return path if path.exists() or str(weights) not in known else download(str(weights))


def download(name: str, **where: Any) -> Path:
    """Get a release (`models.zoo.get`), with a bar that counts MiB."""
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
