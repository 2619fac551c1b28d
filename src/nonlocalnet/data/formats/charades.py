"""Charades, and single tables like its own: several actions a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.formats.rows import PATH_COLUMNS
from nonlocalnet.data.formats.text import open_table, read_columns, read_lines
from nonlocalnet.errors import shown

COLUMNS = {"id", "actions"}
NUM_CLASSES = 157


def matches(source: Source) -> bool:
    """Whether there is Charades_v1_train.csv, or the source is a table with such columns."""
    columns = read_columns(source.path)
    listed = columns & {*PATH_COLUMNS}  # a list may have a column of ids, too
    similar = COLUMNS & columns and not listed
    return _train_table(source) is not None or columns >= COLUMNS or bool(similar)


def read(source: Source) -> Annotations:
    """Read Charades_v1_train.csv, _test.csv and _classes.txt, or one table alone.

    A row is ID and "c092 11.90 21.20;c147 0.00 12.60". A video has every label among its actions:
    times are not used, and an empty field is a video without labels. Without _classes.txt the names
    are "c000", "c001", ...

    Raises:
        ValueError: columns are missing, or actions have another form.
    """
    train = _train_table(source)
    if train is None:
        table = _read_table(source.path, source)
        if not table:
            raise ValueError(f"{source.path}: the table is empty")
        return Annotations(table, [], None, "c{:03d}", multi_label=True)
    val = train.with_name("Charades_v1_test.csv")
    index = train.with_name("Charades_v1_classes.txt")
    if source.classes is not None:
        names = list(source.classes)
    elif index.exists():
        names = _read_classes(index)
    else:
        names = [f"c{i:03d}" for i in range(NUM_CLASSES)]
    held_out = _read_table(val, source) if val.exists() else []
    return Annotations(_read_table(train, source), held_out, names, multi_label=True)


def _train_table(source: Source) -> Path | None:
    return source.find_file("Charades_v1_train.csv")


def _read_table(file: Path, source: Source) -> list[Entry]:
    table = open_table(file)
    if not set(table.fieldnames or ()) >= COLUMNS:
        raise ValueError(
            f"{file}:1: a Charades-style table needs the columns id and actions, "
            f"got {', '.join(table.fieldnames or ()) or 'none'}"
        )
    entries = []
    for row in table:
        where, name, actions = f"{file}:{table.line_num}", row["id"], row["actions"]
        if not name or actions is None:
            raise ValueError(f"{where}: id or actions is missing in {list(row.values())}")
        codes = [action.split()[0] for action in actions.split(";") if action.strip()]
        if not all(code[0] == "c" and code[1:].isascii() and code[1:].isdigit() for code in codes):
            raise ValueError(
                f'{where}: expected actions such as "c092 11.90 21.20;c147 0.00 12.60", '
                f"got {shown(actions)}"
            )
        labels = tuple(sorted({int(code[1:]) for code in codes}))
        entries.append(Entry(name, labels, source.videos.find(name), where))
    return entries


def _read_classes(file: Path) -> list[str]:
    def names() -> Iterator[str]:
        for i, (where, line) in enumerate(read_lines(file)):
            code, _, name = line.partition(" ")
            if code != f"c{i:03d}" or not name:
                raise ValueError(f'{where}: expected "c{i:03d} NAME", got {shown(line)}')
            yield name.strip()

    return list(names())
