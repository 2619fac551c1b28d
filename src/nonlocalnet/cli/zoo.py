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

    from nonlocalnet.runtime.log import print_table

    title = (
        "released checkpoints, with the scores that their authors report; none was measured here"
    )
    table = Table("release", "project", "model", "clip", "reported", "license", title=title)
    for release in releases:
        what = (release.name, release.project, release.model, release.clip or "–")
        table.add_row(*what, _reported(release), release.license)
    print_table(table)


def _reported(release: Release) -> str:
    """Write the scores of a release, "top-1 74.0, top-5 91.1"."""
    from nonlocalnet.evaluation.metrics import find_metric

    scores = {"top1": release.top1, "top5": release.top5, **release.scores}
    told = [f"{find_metric(k).label} {v:.1f}" for k, v in scores.items() if v is not None]
    return ", ".join(told) or "–"
