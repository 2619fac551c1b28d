"""List the training runs of the paper and the official code, or show one in full."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import tyro

from nonlocalnet.training.recipes import RECIPES, Recipe, find_recipe


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet recipes`."""

    name: tyro.conf.Positional[str] = ""
    """Name of a recipe; default: list all."""
    json: bool = False
    """Print JSON."""


def command(options: Options) -> int:
    recipes = [find_recipe(options.name)] if options.name else list(RECIPES.values())
    if options.json:
        facts = [dataclasses.asdict(r) | {"command": r.command()} for r in recipes]
        print(json.dumps(facts[0] if options.name else facts, indent=2))
    elif options.name:
        _print_one(recipes[0])
    else:
        _print_all(recipes)
    return 0


def _print_all(recipes: list[Recipe]) -> None:
    from rich.table import Table

    from nonlocalnet.runtime.log import console, print_table

    table = Table("recipe", "input", "clips x GPUs", "updates", "score", "measure", "source")
    for recipe in recipes:
        table.add_row(
            recipe.name,
            recipe.clip,
            f"{recipe.options['batch_size'] // recipe.gpus} x {recipe.gpus}",
            f"{recipe.options['iterations']:,}",
            _score(recipe),
            recipe.measure,
            recipe.source.partition(",")[0] + recipe.source.partition(",")[2].split("/")[0],
        )
    print_table(table)
    console.print("nonlocalnet recipes NAME shows the command and all options.")


def _print_one(recipe: Recipe) -> None:
    from nonlocalnet.runtime.log import console

    items = "images" if recipe.clip == "image" else "clips"
    lines = {
        "command": recipe.command(),
        "smoke test": f"nonlocalnet train {recipe.name} --smoke-test --data PATH --out runs/smoke",
        "starts from": recipe.starts_from or "torchvision's ImageNet classifier",
        "hardware": f"{recipe.gpus} GPUs, {recipe.options['batch_size'] // recipe.gpus} {items} "
        "each",
        "hours": "not stated by anyone" if recipe.hours is None else f"{recipe.hours:g}",
        "score": f"{_score(recipe)} ({recipe.measure})",
        "measured by us": "no",
        "source": recipe.source,
        "note": recipe.note,
        "options": " ".join(
            f"--{key.replace('_', '-')} {' '.join(map(str, v)) if isinstance(v, tuple) else v}"
            for key, v in recipe.options.items()
        ),
    }
    for key, text in lines.items():
        if text:
            console.print(f"{key:<15} {text}", soft_wrap=True)


def _score(recipe: Recipe) -> str:
    return " / ".join(f"{value:.1f}" for value in recipe.score)
