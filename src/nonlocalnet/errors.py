"""How unknown choices, unfit files and missing packages are refused."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Generator, Iterable
from contextvars import ContextVar
from pathlib import Path

LONG = 25  # a list of more names is not read

# the extra that brings a package, where it is not "video"
EXTRAS = {
    "pycocotools": "coco",
    "faster_coco_eval": "coco",
    "starlette": "explore",
    "uvicorn": "explore",
    "huggingface_hub": "hub",
    "tensorboard": "tensorboard",
}


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


_typed = ContextVar("_typed", default=False)  # whether options were typed after a command


@contextlib.contextmanager
def typed_options() -> Generator[None]:
    """Let `option` give what is typed after a command."""
    token = _typed.set(True)
    try:
        yield
    finally:
        _typed.reset(token)


def option(name: str, value: object = None) -> str:
    """Name an option in a message as its reader gives it: an argument, or words after a command.

    Args:
        name: of the argument.
        value: that is advised; None names the option alone. A word in capitals stands for a value.

    >>> option("max_bad"), option("init", "none"), option("init", "FILE"), option("flip", 0)
    ('max_bad', "init='none'", 'init=FILE', 'flip=0')
    >>> with typed_options():
    ...     option("max_bad"), option("init", "none")
    ('--max-bad', '--init none')
    """
    if _typed.get():
        word = f"--{name.replace('_', '-')}"
        if value is None or value is True:
            return word
        return f"{word} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
    if value is None:
        return name
    return f"{name}={value if str(value).isupper() else repr(value)}"


class FileError(ValueError):
    """Say which file cannot be used, and why: "PATH: reason"."""

    def __init__(self, path: str | Path, reason: str = "") -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        # a DataLoader rebuilds a worker's error from its text alone: then there is no reason
        return f"{self.path}: {self.reason}" if self.reason else str(self.args[0])
