"""Read a whole data set, its splits and its classes, from a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nonlocalnet.data.classes import (
    compare,
    find_nearest,
    note_alike,
    note_empty,
    note_starts_at_one,
)
from nonlocalnet.data.find_videos import plain
from nonlocalnet.data.formats import read_annotations
from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.errors import option, printable, shown

MAX_CLASSES = 1_000_000  # of a list of numbers: the last one may be a time or an id


@dataclass(frozen=True)
class VideoRecord:
    """A video and its labels.

    Args:
        path: its file or its folder of frames, or where it is in packed data.
        labels: class numbers: one, several (multi-label) or none.
        name: as the data set writes it.
        num_frames: the number of frames that a list gives for a folder of frames.
    """

    path: Path | PackedVideo
    labels: tuple[int, ...]
    name: str
    num_frames: int | None = None


@dataclass(frozen=True)
class VideoSplits:
    """The videos to train and to validate on.

    Args:
        train, val: videos; `val` is None for a data set without validation.
        classes: names in the order of the labels.
        multi_label: videos may have several labels or none.
        mirrored: a mirrored video keeps its label; False where labels say left and right, as those
            of Something-Something do.
        absent: names of the listed videos that do not exist; they are left out.
        notes: sentences about what else was left out and what looks wrong.
        faults: sentences about classes that only one split has, or that are splits themselves.
        test: files of a further split, which no command uses.
        walked: the notes cover all files of the folder.
    """

    train: list[VideoRecord]
    val: list[VideoRecord] | None
    classes: list[str]
    multi_label: bool = False
    mirrored: bool = True
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    test: tuple[Path | PackedVideo, ...] = ()
    walked: bool = False

    @property
    def missing(self) -> int:
        """The number of listed videos that do not exist."""
        return len(self.absent)

    @property
    def splits(self) -> dict[str, list[VideoRecord]]:
        """The splits by name: "train", and "val" if there is one."""
        return {"train": self.train} | ({} if self.val is None else {"val": self.val})

    def check_classes(self) -> None:
        """Refuse classes that only one split has, and splits taken for classes.

        Raises:
            ValueError: there are such classes; the message names them and those that may be meant.
        """
        if self.faults:
            raise ValueError("; ".join(self.faults))


def read_dataset(
    source: str | Path,
    *,
    val: str | Path | None = None,
    root: str | Path | None = None,
    classes: Sequence[str] | None = None,
    split: int = 1,
) -> VideoSplits:
    """Read a data set in any of the formats of docs/data.md, found out from its files.

    Args:
        source: packed data, which is a folder with an index or an address; a folder with
            annotation files (Charades, Something-Something, Jester, UCF101, HMDB51, Kinetics), with
            train.txt and val.txt, with train/ and val/, or a folder of classes; or one list or
            table. The first in this order decides.
        val: another list, table or folder to validate on, instead of the source's own.
        root: the folder of the videos; by default the source's.
        classes: names in the order of their labels, instead of the source's.
        split: 1 to 3, for UCF101 and HMDB51.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: a file is not of its format, a label has no class, or no listed video exists;
            the message names file and line.
    """
    return number_labels(
        source, read_entries(source, val=val, root=root, classes=classes, split=split)
    )


def read_entries(
    source: str | Path,
    *,
    val: str | Path | None = None,
    root: str | Path | None = None,
    classes: Sequence[str] | None = None,
    split: int = 1,
) -> Annotations:
    """Read what a data set lists, as it lists it: see `read_dataset`."""
    base = None if root is None else Path(root)
    place = Source(Path(source), base, classes, split)
    found = read_annotations(place)
    train, held_out = found.train, found.val
    if not train:  # a validation list alone
        train, held_out = held_out, []
    names, notes = classes or found.classes, found.notes
    if val is not None:
        other = read_annotations(replace(place, path=Path(val), classes=names))
        held_out = other.train or other.val
        notes += tuple(f"{Path(val).name}: {note}" for note in other.notes)
        names = names or other.classes
    names = None if names is None else list(names)
    return replace(found, train=train, val=held_out, classes=names, notes=notes)


def number_labels(source: str | Path, found: Annotations) -> VideoSplits:
    """Give the labels of what a data set lists their numbers, and check them.

    Raises:
        ValueError: as `read_dataset`, whose source is given for messages.
    """
    train, held_out, names, notes = found.train, found.val, found.classes, list(found.notes)
    if names is None:
        names = [found.pattern.format(n) for n in range(_count_classes(train + held_out))]
    listed = [_number(part, names) for part in (train, held_out)]
    training, validation = (
        [
            VideoRecord(entry.path, labels, entry.name, entry.num_frames)
            for entry, labels in zip(part, numbered, strict=True)
            if entry.path is not None
        ]
        for part, numbered in zip((train, held_out), listed, strict=True)
    )
    for part, records in ((train, training), (held_out, validation)):
        if part and not records:
            raise ValueError(
                f"{source}: none of its {len(part)} listed videos exists, such as {part[0].name} "
                f"({part[0].where}); name the folder of the videos with {option('root')}"
            )
    multi_label = found.multi_label or any(len(r.labels) != 1 for r in training + validation)
    of_train, of_val = ({n for labels in part for n in labels} for part in listed)
    named = any(isinstance(entry.label, str) for entry in train)
    if named:
        notes += note_alike(names)
    elif not found.multi_label:
        notes += note_starts_at_one(of_train | of_val)
    faults = list(found.faults)
    if held_out and not multi_label:
        lonely, more = compare(names, of_train, of_val, strict=named)
        faults += lonely
        notes += more
    if not multi_label:
        notes += note_empty(names, {n for record in training for n in record.labels})
    return VideoSplits(
        training,
        validation if held_out else None,
        names,
        multi_label,
        found.mirrored,
        tuple(entry.name for entry in train + held_out if entry.path is None),
        tuple(notes),
        tuple(faults),
        tuple(entry.path for entry in found.test if entry.path is not None),
        found.walked,
    )


def _count_classes(entries: Sequence[Entry]) -> int:
    """Return the highest label of a list without class names, plus 1."""
    highest = max(entries, key=lambda entry: max(entry.label, default=-1), default=None)
    count = 1 + (-1 if highest is None else max(map(int, highest.label), default=-1))
    if highest is not None and count > MAX_CLASSES:
        raise ValueError(
            f"{highest.where}: label {printable(str(count - 1))} is beyond {MAX_CLASSES - 1:,}; "
            "labels number the classes from 0: check that this column is the label"
        )
    return count


def _number(entries: Sequence[Entry], classes: Sequence[str]) -> list[tuple[int, ...]]:
    """Give the class numbers of each video; refuse classes that there are not."""
    number = {plain(name): i for i, name in enumerate(classes)}
    number |= {name: i for i, name in enumerate(classes)}
    smallest = min((n for e in entries if not isinstance(e.label, str) for n in e.label), default=0)
    labels = []
    for entry in entries:
        if not isinstance(entry.label, str):
            found = entry.label
            if found and found[-1] >= len(classes):
                hint = ""
                if smallest == 1 and found[-1] == len(classes):
                    hint = "; the labels of this list start at 1, and must start at 0: subtract 1 "
                    hint += "from each"
                raise ValueError(
                    f"{entry.where}: label {found[-1]} is beyond the {len(classes)} classes, 0 to "
                    f"{len(classes) - 1}{hint}"
                )
        else:
            label = number.get(entry.label, number.get(plain(entry.label)))
            if label is None:
                raise ValueError(
                    f"{entry.where}: class {shown(entry.label)} is none of the {len(classes)} "
                    f"classes ({', '.join(classes[:3])}, ...){find_nearest(entry.label, classes)}"
                )
            found = (label,)
        labels.append(found)
    return labels
