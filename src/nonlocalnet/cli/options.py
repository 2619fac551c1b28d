"""What is typed is judged by the words that were typed: unknown options, numbers below 1."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_type_hints

import tyro

POSITIONAL = get_args(tyro.conf.Positional[str])[1]  # what marks arguments without a name


def check_options(command: str, kind: Any, args: Sequence[str]) -> None:
    """Refuse an option that a command does not have.

    The parser itself names the nearest only where nothing else is missing.

    Args:
        command: its name.
        kind: the type of its options, a dataclass or a union of some.
        args: what was typed after the command.

    Raises:
        ValueError: it names the option, and the nearest.
    """
    known = {"--help", *_names(kind)}
    for arg in args:
        word = arg.partition("=")[0]
        if word.startswith("--") and word.replace("_", "-") not in known:
            near = difflib.get_close_matches(word, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"nonlocalnet {command} --help lists all"
            raise ValueError(f"{command} has no option {word}; {hint}")


def _names(kind: Any) -> Iterator[str]:
    """List the options of dataclasses, in a union or in one another, as they are typed."""
    if not isinstance(kind, type):  # a union, or a type with what the parser is told of it
        for inner in get_args(kind):
            yield from _names(inner)
        return
    if not dataclasses.is_dataclass(kind):
        return
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner, *told = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        if dataclasses.is_dataclass(inner):
            yield from _names(inner)
        elif POSITIONAL not in told:
            word = name.replace("_", "-")
            yield from ([f"--{word}", f"--no-{word}"] if inner is bool else [f"--{word}"])


def check_positive(options: object, *names: str) -> None:
    """Raise a ValueError, naming the option as it is typed, where a number is below 1."""
    for name in names:
        value = getattr(options, name)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {value}")
