"""Train a network on videos, or a detector on COCO: SGD and a step schedule, as in the paper.

nonlocalnet train [RECIPE] --data PATH --out FOLDER [options that replace the recipe's]
nonlocalnet train --resume --out FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from nonlocalnet.cli import options as command_line
from nonlocalnet.cli.config_file import read_config_file
from nonlocalnet.cli.network import check_weights
from nonlocalnet.cli.options import check_names
from nonlocalnet.options import check_paths, rules_of, setting, types_of
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.recipes import check_start, options_for, options_of
from nonlocalnet.training.signals import sigterm_as_ctrl_c

INTERRUPTED = 130  # after SIGTERM too, so that a scheduler knows that --resume continues the run
UNSAID = Path("")


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet train`."""

    run: Annotated[TrainConfig, tyro.conf.arg(name="")]
    config: Path | None = setting(None, early=True)
    """File of options, YAML or JSON, such as the config.json of another run; what is typed wins."""
    smoke_test: bool = setting(False, early=True)
    """Run the recipe's smoke test of one minute: few channels, small clips, four updates."""
    print_config: bool = setting(False, early=True)
    """Print all options as they would be used, as JSON, and exit."""


@sigterm_as_ctrl_c()
def read(args: list[str]) -> Options:
    """Read the command line; defaults are those of the recipe, the network or the resumed run.

    Raises:
        ValueError: an unknown recipe, or not that of the resumed run; options that would change
            the results of the resumed run.
    """
    check_names("train", Options, args)
    recipe, args = (args[0], args[1:]) if args and not args[0].startswith("-") else ("", args)
    if file := _early(args)["config"]:
        own, words = read_config_file(Path(file), "train", Options)
        recipe, args = recipe or own, [*words, *args]
    given = _early(args)
    run = _resumed(given, args)
    if run is None:
        return _parse(args, _new(recipe, given))
    for typed, own in ((recipe, run.recipe or "no recipe"), (given["model"], run.model)):
        if typed not in (None, "", own):
            raise ValueError(f"{given['out']} is a run of {own}, not of {typed}")
    options = _parse(args, run)
    options.run.check_goes_on(run)  # before `resolve` changes what was typed
    return options


def _parse(args: list[str], default: TrainConfig) -> Options:
    return command_line.read("train", sys.modules[__name__], args, default=Options(default))


def _resumed(given: dict[str, Any], args: list[str]) -> TrainConfig | None:
    """Read the options of the run to resume; None for a new run."""
    if not given["resume"] or not given["out"]:
        return None
    out = Path(given["out"])
    find = TrainConfig.find
    if any(out.glob("checkpoints/*.pt")):
        with contextlib.suppress(ValueError):  # a damaged config.json
            if run := TrainConfig.find(out):
                _parse(args, run)  # errors of use come before torch is imported
        from nonlocalnet.training.setup import find_config as find
    run = find(out)
    if run is None and not given["data"]:
        raise ValueError(
            f"there is no run in {out} to resume (no config.json); pass --data to start one"
        )
    return run


def _early(args: list[str]) -> dict[str, Any]:
    """Read the options on which the defaults of others depend; None or False if not typed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for kind in (TrainConfig, Options):
        kinds = types_of(kind)
        for name in (name for name, rule in rules_of(kind).items() if rule.early):
            words = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
            if bool in kinds[name]:
                parser.add_argument(*words, action="store_true")
            elif int in kinds[name]:
                parser.add_argument(*words, type=lambda t: int(t) if t.isdecimal() else None)
            else:
                parser.add_argument(*words, nargs="?")  # an error of use is told by tyro
    return vars(parser.parse_known_args(args)[0])


def _new(recipe: str, given: dict[str, Any]) -> TrainConfig:
    """Return the default options of a new run."""
    if recipe:
        options = options_of(recipe, smoke_test=given["smoke_test"])
    else:
        names = ("batch_size", "iterations")
        model = given["model"] or TrainConfig.model
        options = options_for(model, **{name: given[name] for name in names})
    # --print-config neither reads nor writes data
    unsaid = UNSAID if given["print_config"] else tyro.MISSING
    return TrainConfig(data=unsaid, out=unsaid, **options)


@sigterm_as_ctrl_c()
def command(options: Options) -> int:
    config = options.run
    if options.smoke_test and not config.recipe:
        raise ValueError("--smoke-test needs a recipe: nonlocalnet train RECIPE --smoke-test ...")
    if options.print_config:
        unsaid = {name: None for name in ("data", "out") if getattr(config, name) is UNSAID}
        print(json.dumps(json.loads(config.resolve().as_json()) | unsaid, indent=2))
        return 0
    if not options.smoke_test:
        check_start(config)
    check_paths(config)
    if config.init not in ("auto", "imagenet", "kinetics400", "none"):
        check_weights(Path(config.init))

    from nonlocalnet.runtime.log import console
    from nonlocalnet.training.trainer import train

    result = train(config)
    console.print(f"weights: {result.weights}")
    return INTERRUPTED if result.interrupted else 0
