"""List released checkpoints, or download one: zoo [PATTERN], zoo get NAME."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from nonlocalnet.checkpoints.zoo import Release, list_releases


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet zoo`."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """A shell pattern of names to list, such as "i3d_*"; or get NAME, which prints the path."""
    mirror: str | None = None
    """With get: take the release from this local file, folder or base URL instead."""
    folder: Path | None = None
    """With get: folder to keep it in; default: $NONLOCALNET_CACHE, or the user's cache."""
    json: bool = False
    """Print JSON instead of a table, with URLs and the sources of the scores."""


def command(options: Options) -> int:
    words = options.words
    if words[:1] == ("get",) and len(words) == 2:
        from nonlocalnet.checkpoints.zoo import download

        print(download(words[1], mirror=options.mirror, folder=options.folder))
        return 0
    if len(words) > 1 or words == ("get",):
        raise ValueError(f"use zoo [PATTERN] or zoo get NAME; got zoo {' '.join(words)}")
    if options.mirror is not None or options.folder is not None:
        raise ValueError("--mirror and --folder need zoo get NAME")
    releases = list_releases(*words)
    if not releases:
        raise ValueError(f"no release matches {words[0]!r}; nonlocalnet zoo lists all")
    if options.json:
        print(json.dumps([_row(release) for release in releases], indent=2))
    else:
        _print(releases)
    return 0


def _row(release: Release) -> dict[str, object]:
    return {**asdict(release), "blocks": release.blocks, "measured_here": False}


def _print(releases: list[Release]) -> None:
    from rich.table import Table

    from nonlocalnet.evaluation.metrics import find_metric
    from nonlocalnet.runtime.log import print_table

    columns = ("name", "project", "model", "clip", "blocks", "top-1", "top-5", "measured here")
    detectors = any(release.scores for release in releases)
    last = ("AP", "license") if detectors else ("license",)
    table = Table(*columns, *last, title="released checkpoints and the scores their authors report")
    for release in releases:
        what = (release.name, release.project, release.model, release.clip or "–")
        scores = (
            "–" if score is None else f"{score:.1f}" for score in (release.top1, release.top5)
        )
        ap = ", ".join(
            f"{find_metric(name).label.removesuffix(' AP')} {value:.1f}"
            for name, value in release.scores.items()
        )
        cells = (ap or "–", release.license) if detectors else (release.license,)
        table.add_row(*what, str(release.blocks), *scores, "no", *cells)
    print_table(table)
