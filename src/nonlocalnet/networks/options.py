"""Read what a command's options say of a network: NAME=VALUE pairs and names of classes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE pairs; a VALUE is JSON, or else a word. classes=FILE reads names from it.

    >>> parse_options(["pairwise=dot_product", "scale=null", "subsample=[1, 2, 2]"])
    {'pairwise': 'dot_product', 'scale': None, 'subsample': [1, 2, 2]}
    """
    result: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise ValueError(
                f"an option is NAME=VALUE, such as pairwise=dot_product; got {option!r}"
            )
        try:
            result[name] = json.loads(value)
        except json.JSONDecodeError:
            result[name] = value
    if isinstance(result.get("classes"), str):
        result["classes"] = read_classes(result["classes"])
    return result


def read_classes(path: str | os.PathLike) -> list[str]:
    """Read class names, one a line, in label order.

    Raises:
        ValueError: the file is empty.
    """
    names = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path} has no class names; write one a line, in label order")
    return names
