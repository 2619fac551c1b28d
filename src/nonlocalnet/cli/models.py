"""List the networks with their parameters and the multiply-adds of one clip or image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import nonlocalnet
from nonlocalnet.clips import ClipSpec
from nonlocalnet.networks.registry import find_row, list_models
from nonlocalnet.options import setting

Count = tuple[int, int]  # parameters and multiply-adds
STORED = Path(nonlocalnet.__file__).parent / "networks/costs.json"  # by benchmarks/costs.py


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet models`."""

    pattern: tyro.conf.Positional[str] = "*"
    """A shell pattern, such as "*r50_nl*"."""
    clip: str = setting("32x2", parse=ClipSpec.parse)
    """FRAMESxRATE of the clip for which multiply-adds are counted."""
    crop: int = setting(224, least=1)
    """Side of the clip, in pixels."""
    json: bool = False
    """Print JSON instead of a table."""


def command(options: Options) -> int:
    names = list_models(options.pattern)
    if not names:
        raise ValueError(f"no model matches {options.pattern!r}; nonlocalnet models lists all")
    counts = _count(options, list(dict.fromkeys([*names, *map(_base, names)])))
    rows = [_row(name, counts) for name in names]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0

    from rich.table import Table

    from nonlocalnet.runtime.log import print_table

    # one table per family: inputs differ, and so does what a network is compared with
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        tables.setdefault(find_row(row["model"]).family.costs, []).append(row)
    columns = ("model", "M parameters", "G multiply-adds", "ratio")
    for title, listed in tables.items():
        title = title.format(clip=options.clip, crop=options.crop)
        table = Table(*columns, title=title, title_justify="left")
        for row in listed:
            table.add_row(
                row["model"],
                f"{row['parameters'] / 1e6:.2f}",
                f"{row['multiply_adds'] / 1e9:.2f}",
                " / ".join(f"{ratio:.2f}" for ratio in row["ratio"]),
            )
        print_table(table)
    return 0


def _count(options: Options, names: list[str]) -> dict[str, Count]:
    """Count parameters and multiply-adds.

    Numbers for the default clip are stored, since building all networks takes half a minute.
    """
    if (options.clip, options.crop) == (Options.clip, Options.crop):
        stored = json.loads(STORED.read_text())
        if all(name in stored for name in names):
            return {name: tuple(stored[name]) for name in names}

    from nonlocalnet.evaluation.cost import cost
    from nonlocalnet.runtime.log import Bar

    counts: dict[str, Count] = {}
    with Bar("counting", len(names)) as bar:
        for name in names:
            found = cost(name, clip=options.clip, crop=options.crop)
            counts[name] = found.parameters, found.multiply_adds
            bar.advance(text=name)
    return counts


def _base(name: str) -> str:
    """Return the network that a network's costs are compared with."""
    return find_row(name).base or name


def _row(name: str, counts: dict[str, Count]) -> dict[str, Any]:
    own, base = counts[name], counts[_base(name)]
    return {
        "model": name,
        "parameters": own[0],
        "multiply_adds": own[1],
        "base": _base(name),
        "ratio": (own[0] / base[0], own[1] / base[1]),
    }
