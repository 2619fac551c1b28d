"""Train a network on videos, or a detector on COCO: SGD and a step schedule, as in the paper.

nonlocalnet train [RECIPE] --data PATH --out FOLDER [options over the recipe's]
nonlocalnet train --resume --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nonlocalnet.runtime.log import console
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.recipes import check_start, options_for, options_of
from nonlocalnet.training.setup import find_config
from nonlocalnet.training.signals import sigterm_as_ctrl_c
from nonlocalnet.training.trainer import train

INTERRUPTED = 130  # of SIGTERM too: a scheduler learns that --resume goes on
UNSAID = Path("")


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet train`."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    twin: bool = False
    """Run the recipe's one-minute twin: few channels, small clips, four updates."""
    print_config: bool = False
    """Print all options as they would be used, as JSON, and end."""


@dataclass(frozen=True)
class Words:
    """What decides the defaults of all others, as it was typed."""

    recipe: str
    out: str | None
    data: str | None
    model: str
    batch_size: int | None
    iterations: int | None
    resume: bool
    twin: bool
    print_config: bool

    @classmethod
    def find(cls, args: list[str]) -> Words:
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--out")
        first.add_argument("--data")
        first.add_argument("--model", default="")
        for words in (("--batch-size", "--batch_size"), ("--iterations",)):
            first.add_argument(*words, type=lambda text: int(text) if text.isdecimal() else None)
        for word in ("--resume", "--twin"):
            first.add_argument(word, action="store_true")
        first.add_argument("--print-config", "--print_config", action="store_true")
        recipe = args.pop(0) if args and not args[0].startswith("-") else ""
        return cls(recipe=recipe, **vars(first.parse_known_args(args)[0]))


def read(args: list[str]) -> Options:
    """Read the command line: defaults are the recipe's, the network's, or the resumed run's.

    Raises:
        ValueError: an unknown recipe, or one that is not that of the resumed run; options that
            would change what the resumed run computes.
    """
    given = Words.find(args)
    run = find_config(Path(given.out)) if given.resume and given.out else None
    if given.resume and given.out and run is None and not given.data:
        raise ValueError(
            f"there is no run in {given.out} to go on with (no config.json); --data begins one"
        )
    if run is not None and given.recipe not in ("", run.recipe):
        raise ValueError(
            f"{given.out} is a run of {run.recipe or 'no recipe'}, not of {given.recipe}"
        )
    if run is not None and given.model not in ("", run.model):  # others may not fit that one
        raise ValueError(f"{given.out} is a run of {run.model}, not of {given.model}")
    default = run or _new(given)
    options = tyro.cli(
        Options, args=args, default=Options(default), prog="nonlocalnet train", description=__doc__
    )
    if run is not None:  # before rules make other numbers of what was typed
        options.config.check_goes_on(run)
    return options


def _new(given: Words) -> TrainConfig:
    """Give the defaults of a run that begins."""
    if given.recipe:
        options = options_of(given.recipe, twin=given.twin)
    else:
        options = options_for(given.model, batch_size=given.batch_size, iterations=given.iterations)
    # nothing is read or written where the options are only printed
    unsaid = UNSAID if given.print_config else tyro.MISSING
    return TrainConfig(data=unsaid, out=unsaid, **options)


def run(args: list[str]) -> int:
    with sigterm_as_ctrl_c():
        options = read(args)
        if options.twin and not options.config.recipe:
            raise ValueError("--twin is of a recipe: nonlocalnet train RECIPE --twin ...")
        if options.print_config:
            _print(options.config)
            return 0
        if not options.twin:  # which learns nothing anyway
            check_start(options.config)
        result = train(options.config)
    console.print(f"weights: {result.weights}")
    return INTERRUPTED if result.interrupted else 0


def _print(config: TrainConfig) -> None:
    unsaid = {name: None for name in ("data", "out") if getattr(config, name) is UNSAID}
    print(json.dumps(json.loads(config.resolve().as_json()) | unsaid, indent=2))
