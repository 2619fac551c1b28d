"""Folders of classes, with or without folders of splits above them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from nonlocalnet.data.find_videos import name_some, plain
from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.formats.lists import TRAIN, VAL
from nonlocalnet.data.suffixes import SUFFIXES
from nonlocalnet.errors import option

SPLITS = (*TRAIN, *VAL, "training", "valid", "test", "testing", "testlist")


def matches(source: Source) -> bool:
    """Whether the source is a folder: every folder is taken for one of classes."""
    return source.path.is_dir()


def read(source: Source) -> Annotations:
    """Read train/CLASS/VIDEO and val/CLASS/VIDEO, or CLASS/VIDEO, at any depth below the class.

    Raises:
        ValueError: there is no video in a class folder, or the folder is rather one of videos
            with a list; a root is given.
    """
    train = source.path / "train"
    val = next((f for name in VAL if (f := source.path / name).is_dir()), None)
    if val is None or not train.is_dir():
        return _read_classes(source)
    parts = {f.name: _read_classes(replace(source, path=f)) for f in (train, val)}
    notes = tuple(f"{name}: {note}" for name, part in parts.items() for note in part.notes)
    return replace(parts["train"], val=parts[val.name].train, notes=notes)


def _read_classes(source: Source) -> Annotations:
    root = source.path
    if source.root is not None:
        raise ValueError(
            f"{root} is a folder of classes, and its videos are in it: leave out {option('root')}"
        )
    found, loose = defaultdict(list), []
    for path in source.videos.videos:
        parts = path.relative_to(root).parts
        if len(parts) > 1:
            found[parts[0]].append(path)
        else:
            loose.append(path.name)
    notes = source.videos.notes()
    if not found:
        hint = "; they are directly in it: did you mean its parent folder?" if loose else ""
        rest = f" ({'; '.join(notes)})" if notes else ""
        raise ValueError(
            f"{root}: no videos found; expected CLASS/VIDEO with one of "
            f"{', '.join(SUFFIXES[:6])}, ..., or CLASS/VIDEO/00001.jpg{hint}{rest}"
        )
    lists = sorted(file.name for file in root.iterdir() if file.suffix in (".txt", ".csv"))
    if len(found) == 1 and lists:
        raise ValueError(
            f"{root} has one folder of videos, {next(iter(found))!r}, and lists with names of "
            f"their own ({', '.join(lists[:3])}, ...): name the list instead"
        )
    if loose:
        notes.append(name_some("{} video{s} outside of class folders {is} left out", loose))
    folders = {p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if empty := sorted(folders - set(found) - set(loose)):
        notes.append(name_some("{} class folder{s} {has} no video, and {is} no class{es}", empty))
    classes = sorted(found)
    faults = []
    if splits := [name for name in classes if plain(name) in SPLITS]:
        text = "{} class{es} {has} the name{s} of a split"
        told = name_some(text, splits) + "; name two folders if they are (--data, --val)"
        (faults if splits == classes else notes).append(told)
    entries = [
        Entry(path.relative_to(root).as_posix(), name, path, str(path))
        for name in classes
        for path in sorted(found[name])
    ]
    return Annotations(entries, [], classes, notes=tuple(notes), faults=tuple(faults), walked=True)
