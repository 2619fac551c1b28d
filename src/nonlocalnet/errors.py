"""How an unknown choice is refused: what was given, what is allowed, what is nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONG = 25  # a list of more names is not read


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raise a ValueError that names the parameter, the value, what is allowed and the nearest."""
    allowed = list(allowed)
    if value in allowed:
        return
    words = [word for word in allowed if isinstance(word, str)]
    near = difflib.get_close_matches(value, words, n=5) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(map(repr, allowed))
    if len(allowed) > LONG:
        shown = f"{len(allowed)} names, such as {', '.join(map(repr, near or allowed[:5]))}"
    raise ValueError(f"{name} must be one of {shown}; got {value!r}{hint}")
