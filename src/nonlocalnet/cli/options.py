"""Read a command line: misspelled options, types, ranges and choices."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, get_args, get_type_hints

import tyro

from nonlocalnet.options import check_values

POSITIONAL = get_args(tyro.conf.Positional[str])[1]  # marks arguments without a name


def read(command: str, module: ModuleType, args: Sequence[str], **tyro_options: Any) -> Any:
    """Read the options of a command.

    Args:
        command: name of the command.
        module: of the command; its `Options` is a dataclass or a union of some.
        args: what was typed after the command.
        tyro_options: other arguments of `tyro.cli`.

    Raises:
        ValueError: an option that the command does not have, or a value that is not allowed.
        SystemExit: after help, or after an error that tyro printed.
    """
    check_names(command, module.Options, args)
    options = tyro.cli(
        module.Options,
        args=list(args),
        prog=f"nonlocalnet {command}",
        description=module.__doc__,
        **tyro_options,
    )
    check_values(options)
    return options


def check_names(command: str, kind: Any, args: Sequence[str]) -> None:
    """Check that a command has the options that were typed.

    The parser names the nearest option only if nothing else is wrong or missing.

    Args:
        command: name of the command.
        kind: type of its options, a dataclass or a union of some.
        args: what was typed after the command.

    Raises:
        ValueError: an unknown option; the message has the nearest one.
    """
    parts = part_names(kind)
    if parts and args and not args[0].startswith("-") and args[0] not in parts:
        near = difflib.get_close_matches(args[0], parts, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(parts)}"
        raise ValueError(f"{command} has no command {args[0]!r}; {hint}")
    known = {"--help", *option_names(kind)}
    for arg in args:
        word = arg.partition("=")[0]
        if word.startswith("--") and word.replace("_", "-") not in known:
            near = difflib.get_close_matches(word, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"nonlocalnet {command} --help lists all"
            raise ValueError(f"{command} has no option {word}; {hint}")


def part_names(kind: Any) -> list[str]:
    """List the names of a union's commands, such as check and resize of `data`."""
    kinds = [] if isinstance(kind, type) else get_args(kind)
    return [
        note.name
        for inner in kinds
        for note in getattr(inner, "__metadata__", ())
        if isinstance(getattr(note, "name", None), str)
    ]


def option_names(kind: Any) -> Iterator[str]:
    """Yield the options of dataclasses, in a union or nested, as they are typed."""
    if not isinstance(kind, type):  # a union, or a type with annotations for tyro
        for inner in get_args(kind):
            yield from option_names(inner)
        return
    if not dataclasses.is_dataclass(kind):
        return
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner, *marks = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        if dataclasses.is_dataclass(inner):
            yield from option_names(inner)
        elif POSITIONAL not in marks:
            word = name.replace("_", "-")
            yield from ([f"--{word}", f"--no-{word}"] if inner is bool else [f"--{word}"])
