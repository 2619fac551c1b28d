"""Ordered rename rules between the parameter names of two code bases, in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

AFFINE = ("weight", "bias")
COUNTER = "num_batches_tracked"
BATCH_NORM = (*AFFINE, "running_mean", "running_var", COUNTER)


def layer(theirs: str, ours: str, kinds: Iterable[str] = ("weight",)) -> Iterator[tuple[str, str]]:
    """Give the rules of one layer's tensors, which torch names alike in both code bases.

    >>> list(layer("head", "fc", AFFINE))
    [('head.weight', 'fc.weight'), ('head.bias', 'fc.bias')]
    """
    for kind in kinds:
        yield f"{theirs}.{kind}", f"{ours}.{kind}"


class Rules:
    """Rename by the first rule that fits.

    A rule is a pair of templates, theirs and ours, with placeholders {i}, {s}, ... that stand for
    the same number on both sides.

    >>> rules = Rules([("res{s}_{i}_w", "res{s}.block{i}.weight")])
    >>> rules.to_ours("res2_10_w"), rules.to_theirs("res2.block10.weight"), rules.to_ours("lr")
    ('res2.block10.weight', 'res2_10_w', None)
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        pairs = list(pairs)
        self._forward = [(_pattern(theirs), ours) for theirs, ours in pairs]
        self._backward = [(_pattern(ours), theirs) for theirs, ours in pairs]

    def to_ours(self, name: str) -> str | None:
        """Translate their name; None if no rule fits."""
        return _apply(self._forward, name)

    def to_theirs(self, name: str) -> str | None:
        """Translate our name; None if no rule fits."""
        return _apply(self._backward, name)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(template)))


def _apply(rules: list[tuple[re.Pattern[str], str]], name: str) -> str | None:
    for pattern, template in rules:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict())
    return None
