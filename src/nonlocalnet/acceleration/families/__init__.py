"""Families of blocks: one module for those that share a form."""

from __future__ import annotations

from nonlocalnet.acceleration.families import (
    attn_block,
    diffusers,
    diffusion,
    frames,
    gan,
    monai,
    non_local,
)
from nonlocalnet.acceleration.families.base import Family

FAMILIES: tuple[Family, ...] = tuple(
    family
    for module in (attn_block, frames, diffusers, diffusion, gan, non_local, monai)
    for family in module.FAMILIES
)

_BY_NAME = {family.name: family for family in FAMILIES}
assert len(_BY_NAME) == len(FAMILIES), "names of families must be unique"


def family_named(name: str) -> Family:
    """Return the family of this name.

    Raises:
        ValueError: there is none; a file may come from another version of nonlocalnet.
    """
    if name not in _BY_NAME:
        raise ValueError(
            f"this network was accelerated as {name!r}, which this version of nonlocalnet does not "
            "know: load it with the version that saved it, and save it after nl.restore(network)"
        )
    return _BY_NAME[name]
