"""Errors that speak to a colleague: what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raise a ValueError that names the parameter, the value, what is allowed and the nearest."""
    allowed = list(allowed)
    if value in allowed:
        return
    words = [word for word in allowed if isinstance(word, str)]
    near = difflib.get_close_matches(value, words, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}{hint}")


def require(module: str, extra: str = "video") -> ModuleType:
    """Import a module of an extra, or say in one sentence how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is needed here and not installed: pip install 'nonlocalnet[{extra}]'",
            name=error.name,
        ) from None
