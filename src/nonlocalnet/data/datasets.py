"""A whole data set, its splits and its classes, from nothing but a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nonlocalnet.data.classes import alike, compare, empty, nearest, starts_at_one
from nonlocalnet.data.find_videos import plain
from nonlocalnet.data.formats.annotations import Listed
from nonlocalnet.data.formats.known import read_layout
from nonlocalnet.data.formats.lists import VideoRecord
from nonlocalnet.errors import option


@dataclass(frozen=True)
class VideoSplits:
    """A data set to train and validate on.

    `mirrored`: a horizontal flip keeps the labels; not so where they say left and right, as
    Something-Something's do. `absent` are the listed videos without a file, which are left out,
    `missing` their number. `notes` say in sentences what else was left out of the folder and what
    looks odd, `faults` why the two splits' classes do not go together.
    """

    train: list[VideoRecord]
    val: list[VideoRecord] | None
    classes: list[str]
    multi_label: bool = False
    mirrored: bool = True
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    walked: bool = False  # the notes tell of the whole folder

    @property
    def missing(self) -> int:
        return len(self.absent)

    def check_classes(self) -> None:
        """Refuse two splits of which one has a class that the other lacks.

        Raises ValueError, naming the classes, and those that may be meant.
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
    """Read a data set in whatever form people have it; docs/data.md has the table.

    source: a folder with Charades', Something-Something's, UCF101's, HMDB51's or Kinetics'
    annotation files, or with train.txt and val.txt (trainlist.txt, .csv; "PATH LABEL"), or with
    train/ and val/ folders of classes, or of classes itself (then without `val`); or one list or
    table alone. What is found first in this order decides.

    val: another list, table or folder of classes instead of the source's own. root: where the
    videos are, by default the source. classes: the names in the order of their labels, instead of
    the source's. split: 1 to 3, of UCF101 and HMDB51.

    Raises FileNotFoundError where there is nothing at `source`, and ValueError for what is not of
    these forms, with list and line, for labels without a class, and where no listed video exists.
    """
    source = Path(source)
    found = read_layout(source, root, classes, split)
    train, held_out = found.train, found.val
    if not train:  # a validation list alone
        train, held_out = held_out, []
    names, named = list(classes or found.classes), classes is not None or found.named
    notes = list(found.notes)
    if val is not None:
        other = read_layout(Path(val), root, names if named else None, split)
        held_out = other.train or other.val
        notes += [f"{Path(val).name}: {note}" for note in other.notes]
        names = names if named else max(names, other.classes, key=len)
    absent: list[str] = []
    kept = [_number(part, names, absent) for part in (train, held_out)]
    for part, (records, _) in zip((train, held_out), kept, strict=True):
        if part and not records:
            raise ValueError(
                f"{source}: none of its {len(part)} videos is there, the first would be "
                f"{part[0].name} ({part[0].where}); name the folder of the videos with "
                f"{option('root')}"
            )
    (training, of_train), (validation, of_val) = kept
    multi_label = found.multi_label or any(
        len(record.labels) != 1 for record in training + validation
    )
    numbers = not any(isinstance(listed.label, str) for listed in train)
    if numbers and not found.multi_label:
        notes += starts_at_one(of_train | of_val)
    notes += alike(names) if not numbers else []
    faults: list[str] = []
    if held_out and not multi_label:
        faults, more = compare(names, of_train, of_val, strict=not numbers)
        notes += more
    if not multi_label:
        notes += empty(names, training)
    return VideoSplits(
        training,
        validation if held_out else None,
        names,
        multi_label,
        found.mirrored,
        tuple(absent),
        tuple(notes),
        tuple(faults),
        found.walked,
    )


def _number(
    part: list[Listed], classes: list[str], absent: list[str]
) -> tuple[list[VideoRecord], set[int]]:
    """Turn class names into labels; videos without a file go to `absent`.

    -> (records, all labels that are listed).
    """
    number = {plain(name): i for i, name in enumerate(classes)}
    number |= {name: i for i, name in enumerate(classes)}
    records, listed_labels = [], set()
    for listed in part:
        labels = listed.label
        if isinstance(labels, str):
            label = number.get(labels, number.get(plain(labels)))
            if label is None:
                raise ValueError(
                    f"{listed.where}: class {labels!r} is none of the {len(classes)} classes "
                    f"({', '.join(classes[:3])}, ...){nearest(labels, classes)}"
                )
            labels = (label,)
        listed_labels.update(labels)
        if listed.path is None:
            absent.append(listed.name)
        else:
            records.append(VideoRecord(listed.path, labels, listed.name, listed.num_frames))
    return records, listed_labels
