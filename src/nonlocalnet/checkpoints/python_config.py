"""Read configurations that are Python code, such as MMAction2's, as data: nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

MAX_LENGTH = 100_000  # characters of a configuration


def read_config(text: str | bytes) -> dict[str, Any]:
    """Read the assignments in a Python configuration: literals, dict(...), names assigned before.

    Anything else is None.

    Raises:
        ValueError: it is no Python, or too long.

    >>> read_config("rate = 2; step = dict(type='Sample', interval=rate)")["step"]
    {'type': 'Sample', 'interval': 2}
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError
        statements = ast.parse(text).body
        config: dict[str, Any] = {}
        for statement in statements:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                config[statement.targets[0].id] = _value(statement.value, config)
        return config
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("its configuration cannot be read") from None


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Evaluate literals, dict(...) and names assigned before; anything else is None."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_value(item, names) for item in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _value(key, names) for key in node.keys]
        return _merge(keys, [_value(item, names) for item in node.values])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        keys = [keyword.arg for keyword in node.keywords]
        return _merge(keys, [_value(keyword.value, names) for keyword in node.keywords])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, names)
        return -value if isinstance(value, (int, float)) else None
    return None


def _merge(keys: list[Any], values: list[Any]) -> dict[Any, Any]:
    """Make a dict of pairs; a key of None stands for `**value`."""
    result: dict[Any, Any] = {}
    for key, value in zip(keys, values, strict=True):
        if key is None:
            result.update(as_dict(value))
        elif isinstance(key, (str, int, float)):
            result[key] = value
    return result


def as_dict(value: Any) -> dict[Any, Any]:
    """Return the value if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}
