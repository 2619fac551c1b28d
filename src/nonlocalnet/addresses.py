"""Paths that lead to packed data: a folder with an index, an address, or a video inside of either.

Commands check the paths that they are given with this module, so it imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

INDEX = "pack.jsonl"  # the file that makes a folder packed data
PARTIAL = ".pack.jsonl.partial"  # the index while the data are being packed


def address_of(path: str | PathLike[str]) -> str | None:
    """Return the address that a path stands for; None for a local path.

    A `Path` joins the two slashes of an address. This restores them.

    >>> address_of(Path("s3://bucket/kinetics")), address_of("clips/a.mp4")
    ('s3://bucket/kinetics', None)
    """
    match = re.match(r"([a-z][a-z0-9+.-]+):/+(.+)", Path(path).as_posix())
    if match is None:
        return None
    return f"{match[1]}://{'/' if match[1] == 'file' else ''}{match[2]}"


def shown_path(path: object) -> str:
    """Write a path as its user does: an address has two slashes again.

    >>> shown_path(Path("https://host/pack"))
    'https://host/pack'
    """
    text = str(path)
    return address_of(text) or text


def pack_at(path: Path) -> Path | None:
    """Return the folder of the packed data at a path: a folder, its index, or any address.

    Data whose packing was interrupted count, too: reading them says so.
    """
    if path.name == INDEX:
        path = path.parent
    if address_of(path) or (path / INDEX).is_file() or (path / PARTIAL).is_file():
        return path
    return None


def folders_above(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders that a path may lie in, and its name in them, the nearest folder first.

    >>> [name for folder, name in folders_above(Path("packed/val/a.mp4"))]
    ['a.mp4', 'val/a.mp4', 'packed/val/a.mp4']
    """
    parts = path.parts
    first = 2 if address_of(path) else 1 if path.anchor else 0
    for i in range(len(parts) - 1, first - 1, -1):
        yield Path(*parts[:i]), "/".join(parts[i:])


def exists(path: Path) -> bool:
    """Whether a file or folder exists, or may: at an address, or inside of packed data."""
    if path.exists() or address_of(path):
        return True
    return any((folder / INDEX).is_file() for folder, _ in folders_above(path))
