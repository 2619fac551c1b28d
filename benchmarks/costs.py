"""Count every network of the table for `nonlocalnet models`, which then need not build them.

Writes src/nonlocalnet/networks/costs.json: parameters and multiply-adds by `evaluation.cost`.
"""

from __future__ import annotations

import json
from dataclasses import astuple

from nonlocalnet.cli.models import STORED, Options
from nonlocalnet.evaluation.cost import cost
from nonlocalnet.networks.registry import list_models


def main() -> None:
    """Count, and write one line a network."""
    clip, crop = Options.clip, Options.crop
    counts = {name: list(astuple(cost(name, clip=clip, crop=crop))) for name in list_models()}
    lines = ",\n".join(f"  {json.dumps(name)}: {numbers}" for name, numbers in counts.items())
    STORED.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
