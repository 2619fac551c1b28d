"""Check that the classes of a data set are what its owner meant."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from nonlocalnet.data.find_videos import name_some, plain
from nonlocalnet.errors import printable


def compare(
    classes: Sequence[str], train: set[int], val: set[int], *, strict: bool
) -> tuple[list[str], list[str]]:
    """Compare the labels of two splits.

    A class that only validation has cannot be learned. A class that only training has is in most
    cases a misspelt folder; in a list of numbers it may be a rare class.

    Args:
        classes: the names.
        train, val: the labels of each split.
        strict: a class that only training has is a fault.

    Returns:
        The faults and the notes, in sentences.
    """
    faults, notes = [], []
    unlearned = sorted(val - train)
    if unlearned:
        faults.append(
            _say(classes, unlearned, "val", "train", train)
            + "; add videos of it to train, or remove it from val"
        )
    untested = sorted(train - val)
    if untested:
        text = _say(classes, untested, "train", "val", val)
        remedy = "; rename it if it is the same as another, add videos of it to val, or remove it"
        (faults if strict else notes).append(text + remedy * strict)
    return faults, notes


def _say(classes: Sequence[str], lonely: list[int], one: str, other: str, there: set[int]) -> str:
    names = [classes[label] for label in lonely]
    text = f"{{}} class{{es}} of {one} {{has}} no video in {other}"
    hint = find_nearest(names[0], [classes[label] for label in sorted(there)], f"{other} has")
    return name_some(text, names) + hint


def find_nearest(name: str, classes: Iterable[str], words: str = "did you mean") -> str:
    """Hint at the class with the most similar name; "" for a number, or where none is similar."""
    found = {plain(other): other for other in classes}
    near = difflib.get_close_matches(plain(name), found, n=1, cutoff=0.75)
    if not near or name.isdecimal():
        return ""
    mark = "?" if words.startswith("did") else ""
    return f"; {words} {printable(found[near[0]])!r}{mark}"


def note_alike(classes: Sequence[str]) -> list[str]:
    """Note classes whose names differ in case, blanks and underscores only."""
    same = defaultdict(list)
    for name in classes:
        same[plain(name)].append(name)
    return [
        f"{' and '.join(repr(printable(name)) for name in names)} are {len(names)} classes whose "
        "names differ only in case, blanks or underscores; rename one if they are the same"
        for names in same.values()
        if len(names) > 1
    ]


def note_starts_at_one(labels: set[int]) -> list[str]:
    """Note labels that start at 1: then class 0 has no video."""
    if min(labels, default=0) != 1:
        return []
    return [
        f"labels start at 1, and should start at 0: they count as {max(labels) + 1} classes, and "
        "class 0 has no video; subtract 1 from each label if the list counts from 1"
    ]


def note_empty(classes: Sequence[str], labels: set[int]) -> list[str]:
    """Note classes that none of the labels of training names."""
    names = [name for label, name in enumerate(classes) if label not in labels]
    if not names or not labels:
        return []
    return [name_some(f"{{}} of {len(classes)} classes {{has}} no video in training", names)]
