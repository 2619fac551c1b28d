"""List the networks, with parameters and multiply-adds of one clip or image."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

import nonlocalnet
from nonlocalnet.cli.options import check_positive
from nonlocalnet.runtime.log import Bar, print_table

Count = tuple[int, int]  # parameters and multiply-adds
STORED = Path(nonlocalnet.__file__).parent / "networks/costs.json"  # by benchmarks/costs.py
IMAGES = "_rcnn_"  # in the names of detectors


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet models`."""

    pattern: tyro.conf.Positional[str] = "*"
    """A shell pattern, such as "*r50_nl*"."""
    clip: str = "32x2"
    """FRAMESxRATE of the clip that multiply-adds are counted for."""
    crop: int = 224
    """Its side in pixels."""
    json: bool = False
    """Print JSON instead of a table."""


def command(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    check_positive(options, "crop")
    counts = _counts(options)
    if not counts:
        raise ValueError(f"no model matches {options.pattern!r}; nonlocalnet models lists all")
    rows = [_row(name, counts) for name in counts if fnmatch.fnmatchcase(name, options.pattern)]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    # one table a kind: their inputs are others, and so is what they are compared with
    inputs = {
        "C2D": f"{options.clip}, {options.crop} x {options.crop}, 400 classes",
        "no blocks": "image of 800 x 1344, 1000 proposals, 100 objects, COCO's classes",
    }
    for base, title in inputs.items():
        table = Table(
            "model",
            "M parameters",
            "G multiply-adds",
            "ratio",
            title=f"{title}; ratio to {base}",
            title_justify="left",
        )
        for row in rows:
            if (IMAGES in row["base"]) == (base == "no blocks"):
                table.add_row(
                    str(row["model"]),
                    f"{row['parameters'] / 1e6:.2f}",
                    f"{row['multiply_adds'] / 1e9:.2f}",
                    " / ".join(f"{ratio:.2f}" for ratio in row["ratio"]),
                )
        if table.row_count:
            print_table(table)
    return 0


def _counts(options: Options) -> dict[str, Count]:
    """Give parameters and multiply-adds of the networks asked for, and of their bases.

    Those of the default clip were counted before: to build all networks takes half a minute.
    """
    if (options.clip, options.crop) == (Options.clip, Options.crop):
        stored = json.loads(STORED.read_text())
        asked = fnmatch.filter(stored, options.pattern)
        return {name: tuple(stored[name]) for name in _with_bases(asked)}
    from nonlocalnet.evaluation.cost import cost
    from nonlocalnet.networks.registry import list_models

    counts: dict[str, Count] = {}
    names = _with_bases(list_models(options.pattern))
    with Bar("counting", len(names)) as bar:
        for name in names:
            found = cost(name, clip=options.clip, crop=options.crop)
            counts[name] = found.parameters, found.multiply_adds
            bar.advance(text=name)
    return counts


def _with_bases(names: list[str]) -> list[str]:
    return list(dict.fromkeys([*names, *map(_base, names)]))


def _base(name: str) -> str:
    """Name what a network is compared with: the C2D of its depth, as the paper's table 2e does, or
    the detector without blocks."""
    return name.partition("_nl")[0] if IMAGES in name else f"c2d_{name.split('_')[1]}"


def _row(name: str, counts: dict[str, Count]) -> dict[str, Any]:
    own, base = counts[name], counts[_base(name)]
    return {
        "model": name,
        "parameters": own[0],
        "multiply_adds": own[1],
        "base": _base(name),
        "ratio": (own[0] / base[0], own[1] / base[1]),
    }
