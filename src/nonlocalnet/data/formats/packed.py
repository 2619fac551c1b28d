"""Packed data: tar files with an index, as `nonlocalnet data pack` writes them."""

from __future__ import annotations

from typing import Any

from nonlocalnet.addresses import pack_at, shown_path
from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.packs.index import SPLITS, read_pack
from nonlocalnet.errors import option

DESCRIPTION = ("classes", "pattern", "multi_label", "mirrored")  # fields of `Annotations`


def matches(source: Source) -> bool:
    """Whether the source is a folder with an index, the index, or an address."""
    return pack_at(source.path) is not None


def read(source: Source) -> Annotations:
    """Read the index, which has the annotations of the data set that was packed.

    Raises:
        FileNotFoundError: there is no index at the address.
        ValueError: the index is not of this form, shards are missing, or a root is given.
        RuntimeError: the address cannot be read.
    """
    folder = pack_at(source.path)
    assert folder is not None, "read without matches"
    if source.root is not None:
        raise ValueError(
            f"{shown_path(folder)} is packed data, and its videos are in it: leave out "
            f"{option('root')}"
        )
    pack = read_pack(folder)
    train, val, test = ([Entry(*line) for line in pack.splits[split]] for split in SPLITS)
    about: dict[str, Any] = {name: pack.about[name] for name in DESCRIPTION}
    return Annotations(train, val, test=test, walked=True, **about)
