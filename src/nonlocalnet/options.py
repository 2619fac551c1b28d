"""What is known of each option besides its default and its help: range, words, kind of network.

A command line is checked with this module before torch is imported: nothing heavy belongs here.
"""

from __future__ import annotations

import dataclasses
import numbers
import operator
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from nonlocalnet.addresses import exists
from nonlocalnet.errors import check_choice, option, shown

Pairwise = Literal["gaussian", "embedded_gaussian", "dot_product", "concatenation"]
Extent = Literal["spacetime", "space", "time", "causal"]
Norm = Literal["batch", "frozen"]  # of a network
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Schedule = Literal["steps", "cosine"]
Parallel = Literal["ddp", "fsdp"]
Style = Literal["arrows", "heat", "both"]
Takes = Literal["videos", "images"]


@dataclass(frozen=True)
class Rule:
    """The rules of an option.

    Attributes:
        least, most: the smallest and the largest value.
        above, below: values must be greater, and less, than these.
        parse: raises a ValueError if a value does not have the right form.
        names: what a path must lead to, in words; None if it need not exist.
        takes: the kind of networks that have a use for the option; None is all.
        free: whether a resumed run may change it. All others are part of what a run computes.
        compared: whether runs that differ in it are told apart by it: in the table of
            `nonlocalnet runs`, only in its JSON, or nowhere.
        early: whether defaults of other options depend on it.
        argument: whether it is an argument of the network.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    parse: Callable[[Any], object] | None = None
    names: str | None = None
    takes: Takes | None = None
    free: bool = False
    compared: Literal["table", "json", "nowhere"] = "table"
    early: bool = False
    argument: bool = False

    def check(self, name: str, value: float) -> None:
        """Raise a ValueError if a number is out of range."""
        limits = (
            ("at least", self.least, operator.ge),
            ("above", self.above, operator.gt),
            ("at most", self.most, operator.le),
            ("below", self.below, operator.lt),
        )
        limits = [(word, limit, fits) for word, limit, fits in limits if limit is not None]
        if not all(fits(value, limit) for _, limit, fits in limits):
            words = " and ".join(f"{word} {limit:g}" for word, limit, _ in limits)
            words = words.replace("below inf", "finite")
            raise ValueError(f"{option(name)} must be {words}; got {value}")


def setting(
    default: Any = dataclasses.MISSING,
    *,
    default_factory: Any = dataclasses.MISSING,
    **rules: Any,
) -> Any:
    """Declare a field of a dataclass of options, with its `Rule`.

    >>> @dataclass(frozen=True)
    ... class Options:
    ...     top: int = setting(5, least=1)
    >>> check_values(Options(top=0))
    Traceback (most recent call last):
    ValueError: top must be at least 1; got 0
    """
    metadata = {"rule": Rule(**rules)}
    return dataclasses.field(default=default, default_factory=default_factory, metadata=metadata)


def rules_of(options: Any) -> dict[str, Rule]:
    """Map the names of a dataclass's options to their rules."""
    return {f.name: f.metadata.get("rule", Rule()) for f in dataclasses.fields(options)}


def types_of(kind: type) -> dict[str, tuple[Any, ...]]:
    """Map the names of options to the types that each takes: of `int | None`, both."""
    unions = (Union, types.UnionType)
    hints = get_type_hints(kind).items()
    return {name: get_args(h) if get_origin(h) in unions else (h,) for name, h in hints}


WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _fits(value: Any, kind: Any) -> bool:
    """Tell whether a value is of a type that an option takes."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple | list):
            return False
        kinds = get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        return not (isinstance(value, int) and abs(int(value)) > sys.float_info.max)
    if kind in (bool, str, types.NoneType):
        return isinstance(value, kind)
    # of paths, the parser of a command line has placeholders
    return value is not None and not isinstance(value, numbers.Number | list | tuple | dict)


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        inner, *more = get_args(kind)
        many = "any number" if more == [Ellipsis] else str(1 + len(more))
        return f"{many} of {_describe(inner)}"
    return "nothing" if kind is types.NoneType else WORDS.get(kind, "a path")


def check_values(options: Any) -> None:
    """Check every value: type, range of numbers, choices, and form.

    Raises:
        ValueError: it names the option, what is allowed and what was given.
    """
    rules = rules_of(options)
    for name, kinds in types_of(type(options)).items():
        value, rule = getattr(options, name), rules[name]
        if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
            check_choice(name, value, get_args(kinds[0]))
        if not any(_fits(value, kind) for kind in kinds):
            allowed = " or ".join(map(_describe, kinds))
            raise ValueError(f"{option(name)} must be {allowed}; got {shown(value)}")
        if value is not None and rule.parse is not None:
            rule.parse(value)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                rule.check(name, number)


def check_paths(options: Any) -> None:
    """Check that what the paths name exists, except at an address, which is not asked yet.

    Raises:
        FileNotFoundError: it says what is expected there.
    """
    for name, rule in rules_of(options).items():
        path = getattr(options, name)
        if rule.names is not None and path is not None and not exists(Path(path)):
            raise FileNotFoundError(f"no file or folder at {path}: name {rule.names}")


def check_takes(options: Any, takes: Takes, reason: str) -> None:
    """Refuse options that only networks of the other kind use.

    Args:
        options: a dataclass.
        takes: what the network takes.
        reason: why they have no use, the beginning of the message.

    Raises:
        ValueError: the name of an option that is not at its default.
    """
    rules = rules_of(options)
    for field in dataclasses.fields(options):
        unused = rules[field.name].takes not in (None, takes)
        if unused and getattr(options, field.name) != field.default:
            raise ValueError(f"{reason}: {option(field.name)} has no use")
