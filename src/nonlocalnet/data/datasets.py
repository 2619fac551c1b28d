"""A whole data set, its splits and its classes, from nothing but a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nonlocalnet.data.annotations import Listed
from nonlocalnet.data.layouts import read_layout
from nonlocalnet.data.readers import VideoRecord
from nonlocalnet.data.tree import plain
from nonlocalnet.errors import option


@dataclass(frozen=True)
class VideoSplits:
    """A data set to train and validate on.

    `mirrored`: a horizontal flip keeps the labels; not so where they say left and right, as
    Something-Something's do. `absent` are the listed videos without a file, which are left out,
    `missing` their number.
    """

    train: list[VideoRecord]
    val: list[VideoRecord] | None
    classes: list[str]
    multi_label: bool = False
    mirrored: bool = True
    absent: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        return len(self.absent)


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
    if val is not None:
        other = read_layout(Path(val), root, names if named else None, split)
        held_out = other.train or other.val
        names = names if named else max(names, other.classes, key=len)
    absent: list[str] = []
    kept = [_number(part, names, absent) for part in (train, held_out)]
    for part, records in zip((train, held_out), kept, strict=True):
        if part and not records:
            raise ValueError(
                f"{source}: none of its {len(part)} videos is there, the first would be "
                f"{part[0].name} ({part[0].where}); name the folder of the videos with "
                f"{option('root')}"
            )
    multi_label = found.multi_label or any(
        len(record.labels) != 1 for records in kept for record in records
    )
    return VideoSplits(
        kept[0],
        kept[1] if held_out else None,
        names,
        multi_label,
        found.mirrored,
        tuple(absent),
    )


def _number(part: list[Listed], classes: list[str], absent: list[str]) -> list[VideoRecord]:
    """Turn class names into labels; videos without a file go to `absent`."""
    number = {plain(name): i for i, name in enumerate(classes)}
    number |= {name: i for i, name in enumerate(classes)}
    records = []
    for listed in part:
        labels = listed.label
        if isinstance(labels, str):
            label = number.get(labels, number.get(plain(labels)))
            if label is None:
                raise ValueError(
                    f"{listed.where}: class {labels!r} is none of the {len(classes)} classes "
                    f"({', '.join(classes[:3])}, ...)"
                )
            labels = (label,)
        if listed.path is None:
            absent.append(listed.name)
        else:
            records.append(VideoRecord(listed.path, labels, listed.name))
    return records
