"""Options from a file: YAML or JSON, such as the config.json of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nonlocalnet.cli.options import check_names

LEFT_OUT = ("resume", "smoke_test", "print_config")  # of a run's own config.json; they are typed


def read_config_file(file: Path, command: str, kind: type) -> tuple[str, list[str]]:
    """Read a file of options and return them as they would be typed.

    Args:
        file: a table of options, `batch_size: 8` or `batch-size: 8`, and `recipe`.
        command: name of the command.
        kind: type of its options.

    Returns:
        The recipe, "" without one; the words of the options.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a table of options of this command.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file of options at {file}")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is readable neither as YAML nor as JSON: {reason}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{file} must hold options, such as `batch_size: 8`, one per line")
    values = {name.replace("-", "_"): value for name, value in values.items()}
    if "config" in values:
        raise ValueError(f"{file} names another file of options; write the options themselves")
    recipe = values.pop("recipe", None) or ""
    words: list[str] = []
    for name, value in values.items():
        if name not in LEFT_OUT:
            words += _words(name, value)
    try:
        check_names(command, kind, words)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return recipe, words


def _words(name: str, value: Any) -> list[str]:
    """Write an option and its value as they are typed."""
    word = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [word if value else f"--no-{name.replace('_', '-')}"]
    parts = value if isinstance(value, list) else [value]
    return [word, *map(str, parts)]
