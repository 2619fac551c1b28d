"""In which of the known forms a data set is: the files that give each away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from nonlocalnet.data.find_videos import LISTS, VideoTree, name_some, plain, resolve
from nonlocalnet.data.formats.annotations import (
    KINETICS_COLUMNS,
    Annotations,
    Listed,
    read_charades_classes,
    read_hmdb51,
    read_jester,
    read_kinetics,
    read_names,
    read_something,
    read_ucf101,
)
from nonlocalnet.data.formats.lists import (
    is_table,
    read_charades,
    read_class_folders,
    read_header,
    read_list,
)

TRAIN = ("train", "trainlist")
VAL = ("val", "vallist", "validation", "validate")
SPLITS = (*TRAIN, *VAL, "training", "valid", "test", "testing", "testlist")


def read_layout(
    source: Path, root: str | Path | None, classes: Sequence[str] | None, split: int
) -> Annotations:
    """Find out in which form a data set is, and read what it lists; arguments of `read_dataset`."""
    if not source.exists():
        raise FileNotFoundError(
            f"no videos at {source}: name a data set's folder, a folder of classes, or a list file"
        )
    if not source.is_dir():
        return _read_file(source, root, classes)
    place = _Place(source, None if root is None else Path(root), classes, split)
    for read in FORMATS:
        found = read(place)
        if found is not None and "tree" in vars(place):  # the whole tree was walked
            return replace(found, notes=tuple(place.tree.walk.notes(known=LISTS)), walked=True)
        if found is not None:
            return found
    raise AssertionError("the last format takes or refuses all")


def _read_file(source: Path, root: str | Path | None, classes: Sequence[str] | None) -> Annotations:
    if set(read_header(source)) >= KINETICS_COLUMNS:
        tree = VideoTree(Path(root or source.parent))
        notes = tuple(tree.walk.notes(known=LISTS))
        return replace(read_kinetics([source], tree), notes=notes, walked=True)
    table = is_table(source)
    records, names = (read_charades if table else read_list)(source, root, classes)
    paths = resolve([record.path for record in records])
    listed = [
        Listed(record.name, record.labels, path, str(source), record.num_frames)
        for record, path in zip(records, paths, strict=True)
    ]
    return Annotations(listed, [], names, named=classes is not None, multi_label=table)


@dataclass(frozen=True)
class _Place:
    """A folder in which a data set is looked for."""

    folder: Path
    root: Path | None
    classes: Sequence[str] | None
    split: int

    @cached_property
    def tree(self) -> VideoTree:
        return VideoTree(self.root or self.folder)

    def find(self, *patterns: str) -> Path | None:
        """Find the first file of these names, here or one folder below."""
        for pattern in patterns:
            for found in (*self.folder.glob(pattern), *sorted(self.folder.glob(f"*/{pattern}"))):
                return found
        return None


def _charades(place: _Place) -> Annotations | None:
    train = place.find("Charades_v1_train.csv")
    if train is None:
        return None
    val = train.with_name("Charades_v1_test.csv")
    index = train.with_name("Charades_v1_classes.txt")
    names = place.classes
    if names is None:
        names = (
            read_charades_classes(index) if index.exists() else [f"c{i:03d}" for i in range(157)]
        )
    parts = [
        [
            Listed(r.name, r.labels, place.tree.find(r.name), str(table))
            for r in read_charades(table, classes=names)[0]
        ]
        for table in (train, val)
        if table.exists()
    ]
    return Annotations(parts[0], parts[1] if parts[1:] else [], list(names), multi_label=True)


def _something(place: _Place) -> Annotations | None:
    name = "something-something-v2-"
    train = place.find(f"{name}train.json", "train.json")
    labels = place.find(f"{name}labels.json", "labels.json")
    if train is None or labels is None:
        return None
    val = place.find(f"{name}validation.json", "validation.json")
    return replace(read_something(train, val, labels, place.tree), mirrored=False)


def _jester(place: _Place) -> Annotations | None:
    train = place.find("*-v1-train.csv")
    if train is None:
        return None
    prefix = train.name.removesuffix("train.csv")
    labels, val = (train.with_name(f"{prefix}{part}.csv") for part in ("labels", "validation"))
    if not labels.exists():
        return None
    val = val if val.exists() else None
    return replace(read_jester(train, val, labels, place.tree), mirrored=False)


def _ucf101(place: _Place) -> Annotations | None:
    index = place.find("classInd.txt")
    if index is None:
        return None
    _needs_split(index.parent / f"trainlist{place.split:02d}.txt", place)
    return read_ucf101(index.parent, place.split, place.tree)


def _hmdb51(place: _Place) -> Annotations | None:
    if place.find("*_test_split[123].txt") is None:
        return None
    file = place.find(f"*_test_split{place.split}.txt")
    _needs_split(file or place.folder / f"CLASS_test_split{place.split}.txt", place)
    assert file is not None
    return read_hmdb51(file.parent, place.split, place.tree)


def _needs_split(file: Path, place: _Place) -> None:
    if not file.exists():
        raise ValueError(f"{place.folder} has no split {place.split}: there is no {file}")


def _kinetics(place: _Place) -> Annotations | None:
    folders = (place.folder, place.folder / "annotations")
    tables = [
        table
        for folder in folders
        for table in sorted(folder.glob("*.csv"))
        if set(read_header(table)) >= {*KINETICS_COLUMNS, "label"}
    ]
    return read_kinetics(tables, place.tree) if tables else None


def _lists(place: _Place) -> Annotations | None:
    def find(names: Sequence[str]) -> Path | None:
        files = (place.folder / (name + suffix) for name in names for suffix in (".txt", ".csv"))
        return next((file for file in files if file.is_file()), None)

    train, val = find(TRAIN), find(VAL)
    if train is None and val is None:
        return None
    index, names = place.folder / "classes.txt", place.classes
    if names is None and index.exists():
        names = read_names(index)
    parts = [
        _read_file(file, place.root or place.folder, names) if file else None
        for file in (train, val)
    ]
    known = [part for part in parts if part is not None]
    return Annotations(
        *(part.train if part else [] for part in parts),
        max((part.classes for part in known), key=len),
        named=names is not None,
        multi_label=any(part.multi_label for part in known),
    )


def _split_folders(place: _Place) -> Annotations | None:
    train = place.folder / "train"
    val = next((f for name in VAL if (f := place.folder / name).is_dir()), None)
    if not train.is_dir() or val is None:
        return None
    training = _class_folders(replace(place, folder=train))
    held_out = _class_folders(replace(place, folder=val))
    notes = [
        f"{folder.name}: {note}"
        for folder, part in ((train, training), (val, held_out))
        for note in part.notes
    ]
    return replace(training, val=held_out.train, notes=tuple(notes))


def _class_folders(place: _Place) -> Annotations:
    if place.root is not None:
        raise ValueError(
            f"{place.folder} is a folder of classes: its videos lie there, not at a root"
        )
    records, classes, notes = read_class_folders(place.folder)
    lists = sorted(file.name for file in place.folder.iterdir() if file.suffix in (".txt", ".csv"))
    if len(classes) == 1 and lists:
        raise ValueError(
            f"{place.folder} has one folder of videos, {classes[0]!r}, and lists with names of "
            f"their own ({', '.join(lists[:3])}, ...): name the list instead"
        )
    splits = [name for name in classes if plain(name) in SPLITS]
    if splits:
        text = "{} class{es} {has} the name{s} of a split"
        notes.append(name_some(text, splits) + "; name two folders if they are (--data, --val)")
    listed = [
        Listed(record.name, classes[record.labels[0]], record.path, str(record.path))
        for record in records
    ]
    return Annotations(listed, [], classes, notes=tuple(notes), walked=True)


FORMATS: tuple[Callable[[_Place], Annotations | None], ...] = (
    _charades,
    _something,
    _jester,
    _ucf101,
    _hmdb51,
    _kinetics,
    _lists,
    _split_folders,
    _class_folders,
)
