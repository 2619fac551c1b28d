"""Whether the classes of a data set are what its owner meant: sentences for whoever reads it."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from nonlocalnet.data.find_videos import name_some, plain
from nonlocalnet.data.formats.lists import VideoRecord
from nonlocalnet.errors import printable


def compare(
    classes: Sequence[str], train: set[int], val: set[int], *, strict: bool
) -> tuple[list[str], list[str]]:
    """Compare the labels of two splits: (what cannot be meant, what may be).

    A class that validation alone has cannot be learned. One that training alone has is in most
    cases a misspelt folder; with `strict` False it may be a rare class of a list.
    """
    faults, notes = [], []
    unlearned = sorted(val - train)
    if unlearned:
        faults.append(
            _say(classes, unlearned, "val", "train", train)
            + "; give train videos of it, or take it out of val"
        )
    untested = sorted(train - val)
    if untested:
        text = _say(classes, untested, "train", "val", val)
        remedy = "; rename it if it is the same as another, give val videos of it, or take it out"
        (faults if strict else notes).append(text + remedy * strict)
    return faults, notes


def _say(classes: Sequence[str], lonely: list[int], one: str, other: str, there: set[int]) -> str:
    names = [classes[label] for label in lonely]
    text = f"{{}} class{{es}} of {one} {{has}} no video in {other}"
    hint = nearest(names[0], [classes[label] for label in sorted(there)], f"{other} has")
    return name_some(text, names) + hint


def nearest(name: str, classes: Iterable[str], words: str = "did you mean") -> str:
    """Hint at the class whose name is most alike, but for numbers; nothing where none is."""
    found = {plain(other): other for other in classes}
    near = difflib.get_close_matches(plain(name), found, n=1, cutoff=0.75)
    if not near or name.isdecimal():
        return ""
    mark = "?" if words.startswith("did") else ""
    return f"; {words} {printable(found[near[0]])!r}{mark}"


def alike(classes: Sequence[str]) -> list[str]:
    """Note classes whose names differ in case, blanks and underscores alone."""
    same = defaultdict(list)
    for name in classes:
        same[plain(name)].append(name)
    return [
        f"{' and '.join(repr(printable(name)) for name in names)} are {len(names)} classes whose "
        "names differ in case, blanks or underscores alone; rename one if they are the same"
        for names in same.values()
        if len(names) > 1
    ]


def starts_at_one(labels: set[int]) -> list[str]:
    """Note labels that start at 1: then class 0 is learned from nothing."""
    if min(labels, default=0) != 1:
        return []
    return [
        f"labels start at 1; ours start at 0: these are counted as {max(labels) + 1} classes, and "
        "class 0 has no video; subtract 1 from each label if the list counts from 1"
    ]


def empty(classes: Sequence[str], training: Iterable[VideoRecord]) -> list[str]:
    """Note classes without a video to train on."""
    there = {label for record in training for label in record.labels}
    names = [name for label, name in enumerate(classes) if label not in there]
    if not names or not there:
        return []
    return [name_some(f"{{}} of {len(classes)} classes {{has}} no video in training", names)]
