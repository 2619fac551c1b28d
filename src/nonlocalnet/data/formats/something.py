"""Something-Something v2."""

from __future__ import annotations

from pathlib import Path

from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.formats.text import read_json
from nonlocalnet.errors import shown


def matches(source: Source) -> bool:
    """Whether train.json and labels.json are there, with or without the data set's prefix."""
    return None not in (_find(source, "train"), _find(source, "labels"))


def read(source: Source) -> Annotations:
    """Read lists of {"id", "template", ...} and the labels, {label: number}.

    The label is the template without its brackets: "Approaching [something]". Labels say left and
    right, so that videos cannot be mirrored.

    Raises:
        ValueError: an entry has no id or no template.
    """
    train, val, labels = (_find(source, part) for part in ("train", "validation", "labels"))
    assert train is not None, "read without matches"
    assert labels is not None, "read without matches"
    numbers = read_json(labels, dict)
    classes = sorted(numbers, key=lambda name: int(numbers[name]))
    held_out = [] if val is None else _read_list(val, source)
    return Annotations(_read_list(train, source), held_out, classes, mirrored=False)


def _find(source: Source, part: str) -> Path | None:
    return source.find_file(f"something-something-v2-{part}.json", f"{part}.json")


def _read_list(file: Path, source: Source) -> list[Entry]:
    entries = []
    for number, entry in enumerate(read_json(file, list), 1):
        where = f"{file}: entry {number}"
        if not isinstance(entry, dict) or not {"id", "template"} <= set(entry):
            raise ValueError(f"{where}: expected id and template, got {shown(entry)}")
        label = entry["template"].replace("[", "").replace("]", "")
        name = str(entry["id"])
        entries.append(Entry(name, label, source.videos.find(name), where))
    return entries
