"""Train a network on videos, or a detector on COCO: SGD and a step schedule, as in the paper.

nonlocalnet train [RECIPE] --data PATH --out FOLDER [options over the recipe's]
nonlocalnet train --resume --out FOLDER
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Annotated

import tyro

from nonlocalnet.runtime.log import console
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.loop import train
from nonlocalnet.training.recipes import check_start, options_for, options_of

INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet train`."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    twin: bool = False
    """Run the recipe's one-minute twin: few channels, small clips, four updates."""
    print_config: bool = False
    """Print all options as they would be used, as JSON, and end."""


def read(args: list[str]) -> Options:
    """Read the command line: defaults are the recipe's, the network's, or the resumed run's.

    Raises:
        ValueError: an unknown recipe, or one that is not that of the resumed run.
    """
    recipe = args.pop(0) if args and not args[0].startswith("-") else ""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--out")
    first.add_argument("--data")
    first.add_argument("--model", default="")
    for word in ("--batch-size", "--iterations"):
        first.add_argument(word, type=lambda text: int(text) if text.isdecimal() else None)
    first.add_argument("--resume", action="store_true")
    first.add_argument("--twin", action="store_true")
    given, _ = first.parse_known_args(args)
    saved = TrainConfig.find(given.out) if given.resume and given.out else None
    if given.resume and given.out and saved is None and not given.data:
        raise ValueError(
            f"there is no run in {given.out} to go on with (no config.json); --data begins one"
        )
    if saved is not None and recipe not in ("", saved.recipe):
        raise ValueError(f"{given.out} is a run of {saved.recipe or 'no recipe'}, not of {recipe}")
    if saved is None:
        options = (
            options_of(recipe, twin=given.twin)
            if recipe
            else options_for(given.model, batch_size=given.batch_size, iterations=given.iterations)
        )
        saved = TrainConfig(data=tyro.MISSING, out=tyro.MISSING, **options)
    return tyro.cli(
        Options, args=args, default=Options(saved), prog="nonlocalnet train", description=__doc__
    )


def run(args: list[str]) -> int:
    options = read(args)
    if options.twin and not options.config.recipe:
        raise ValueError("--twin is of a recipe: nonlocalnet train RECIPE --twin ...")
    if options.print_config:
        print(options.config.resolve().as_json(), end="")
        return 0
    if not options.twin:  # which learns nothing anyway
        check_start(options.config)
    result = train(options.config)
    console.print(f"weights: {result.weights}")
    return INTERRUPTED if result.interrupted else 0
