"""How unknown choices, unfit files and missing packages are refused, in words fit to be printed."""

from __future__ import annotations

import contextlib
import difflib
import os
import reprlib
import unicodedata
from collections.abc import Generator, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import NoReturn

from nonlocalnet.addresses import shown_path

LONG = 25  # a list of more names is not read
LIMIT = 1000  # characters of what a file says, in a message
PATH_LIMIT = 4096  # the longest that systems take
JOINERS = "\u200c\u200d"  # invisible, and part of words of many languages

# The extra that installs a package; "video" installs the others.
EXTRAS = {
    "torchvision": "torchvision",
    "faster_coco_eval": "coco",
    "starlette": "explore",
    "uvicorn": "explore",
    "huggingface_hub": "hub",
    "tensorboard": "tensorboard",
    "pyarrow": "parquet",
    "aiohttp": "remote",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
}


def printable(text: object, limit: int = LIMIT) -> str:
    r"""Make text of foreign origin fit for a terminal: nothing in it acts there or hides.

    Names of files and of classes, and what is in files, may hold control characters, which move the
    cursor, color what follows or end the line, and characters that turn the direction of writing.
    They become what Python's source has for them; long text loses its middle.

    Args:
        text: anything; what is no text, by its `str`.
        limit: characters that are kept.

    Returns:
        The same text where nothing is wrong with it.

    >>> printable("a\x1b[31mb\n"), printable("x" * 50, limit=9)
    ('a\\x1b[31mb\\n', 'xxxx…xxxx')
    """
    text = str(text)
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[len(text) - (limit - 1) // 2 :]}"
    if text.isprintable():
        return text
    return "".join(c if _harmless(c) else c.encode("unicode_escape").decode() for c in text)


def _harmless(character: str) -> bool:
    space = unicodedata.category(character) == "Zs"  # of other widths, as in Japanese
    return character.isprintable() or space or character in JOINERS


class _Short(reprlib.Repr):
    """Python's way to write a value, of which a message has room for the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 120
        self.maxlist = self.maxtuple = self.maxdict = 8
        self.maxlevel = 4


def shown(value: object) -> str:
    """Write a value as Python does, cut short: for messages that say what was given.

    >>> shown({"a": [1, 2]}), len(shown("x" * 100_000))
    ("{'a': [1, 2]}", 120)
    """
    return printable(_Short().repr(value))


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raise a ValueError that names the parameter, the value, what is allowed and the nearest."""
    allowed = list(allowed)
    if value in allowed:
        return
    words = [word for word in allowed if isinstance(word, str)]
    short = isinstance(value, str) and len(value) < LIMIT  # the nearest of a long one takes long
    near = difflib.get_close_matches(value, words, n=5) if short else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    names = ", ".join(map(repr, allowed))
    if len(allowed) > LONG:
        names = f"{len(allowed)} names, such as {', '.join(map(repr, near or allowed[:5]))}"
    raise ValueError(f"{name} must be one of {names}; got {shown(value)}{hint}")


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
    """Say which file cannot be used, and why: "PATH: reason", fit to be printed."""

    def __init__(self, path: object, reason: str = "") -> None:
        super().__init__(path, reason)
        self.path = Path(str(path))
        self.reason = reason

    def __str__(self) -> str:
        # a DataLoader rebuilds a worker's error from its text alone: then there is no reason
        if not self.reason:
            return str(self.args[0])
        return f"{printable(shown_path(self.args[0]), PATH_LIMIT)}: {printable(self.reason)}"


@contextlib.contextmanager
def errors_about(path: str | os.PathLike[str]) -> Generator[None]:
    """Name the file in every error about its content, whatever fails."""
    try:
        yield
    except FileError:
        raise
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise FileError(path, str(error)) from None
    except (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        problem = printable(error, 200)
        raise FileError(path, f"a value in its description makes no sense: {problem}") from None


def refuse_script(module: object) -> NoReturn:
    """Raise a TypeError that says what to use instead of torch.jit.script."""
    raise TypeError(
        f"{type(module).__name__} cannot be scripted, since it chooses its implementation by the "
        "input: use torch.export.export, torch.jit.trace or nl.export"
    )
