"""List the networks, with parameters and multiply-adds of one clip or image."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.table import Table

from nonlocalnet.evaluation.cost import Cost, cost
from nonlocalnet.models.detection import DETECTORS
from nonlocalnet.models.registry import list_models
from nonlocalnet.runtime.log import Bar, print_table


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
    names = list_models(options.pattern)
    if not names:
        raise ValueError(f"no model matches {options.pattern!r}; nonlocalnet models lists all")
    rows = []
    with Bar("counting", len(names)) as bar:
        for name in names:
            rows.append(_row(name, options.clip, options.crop))
            bar.advance(text=name)
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
            "parameters (M)",
            "multiply-adds (G)",
            f"ratio to {base}",
            title=title,
        )
        for row in rows:
            if (row["base"] in DETECTORS) == (base == "no blocks"):
                table.add_row(
                    str(row["model"]),
                    f"{row['parameters'] / 1e6:.2f}",
                    f"{row['multiply_adds'] / 1e9:.2f}",
                    " / ".join(f"{ratio:.2f}" for ratio in row["ratio"]),
                )
        if table.row_count:
            print_table(table)
    return 0


def _row(name: str, clip: str, crop: int) -> dict[str, Any]:
    """Count a network, and relate it to another: the C2D of its depth, as the paper's table 2e
    does, or the detector without blocks."""
    plain = name.partition("_nl")[0] if name in DETECTORS else f"c2d_{name.split('_')[1]}"
    own, base = _cost(name, clip, crop), _cost(plain, clip, crop)
    return {
        "model": name,
        "parameters": own.parameters,
        "multiply_adds": own.multiply_adds,
        "base": plain,
        "ratio": (
            own.parameters / base.parameters,
            own.multiply_adds / base.multiply_adds,
        ),
    }


@functools.cache
def _cost(name: str, clip: str, crop: int) -> Cost:
    return cost(name, clip=clip, crop=crop)
