"""Arguments of a network as words of a command: NAME=VALUE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nonlocalnet.checkpoints.metadata import read_classes


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
