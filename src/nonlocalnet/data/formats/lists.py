"""One list of labeled videos: from a folder per class, a text list, or a Charades-style table."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nonlocalnet.data.find_videos import name_some, walk
from nonlocalnet.data.formats.rows import Row, open_table, read_rows
from nonlocalnet.data.suffixes import SUFFIXES, is_video


@dataclass(frozen=True)
class VideoRecord:
    """Name one video and its labels: one, several (multi-label) or none.

    `num_frames` is what a list says of a folder of frames.
    """

    path: Path
    labels: tuple[int, ...]
    name: str
    num_frames: int | None = None


def read_videos(
    source: str | Path, *, root: str | Path | None = None, classes: Sequence[str] | None = None
) -> tuple[list[VideoRecord], list[str]]:
    """Read a folder, a Charades-style .csv, or a text list, told apart by path and first row.

    -> (records, class names). `root` and `classes` as in `read_list` and `read_charades`; a folder
    takes neither, it is its own root and names its own classes. Whole data sets with their splits:
    `read_dataset`. Raises ValueError for content that cannot be read, FileNotFoundError where there
    is nothing at `source`.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(
            f"no videos at {source}: name a folder of classes, a list file or a Charades-style .csv"
        )
    if source.is_dir():
        if root is not None or classes is not None:
            raise ValueError(f"{source} is a folder of classes: root and classes do not apply")
        return read_folder(source)
    if is_table(source):
        return read_charades(source, root, classes)
    return read_list(source, root, classes)


def is_table(source: Path) -> bool:
    """Whether a source is a Charades-style table: its videos have any number of labels."""
    return bool({"id", "actions"} & set(read_header(source)))


def read_header(source: Path) -> list[str]:
    """Read the first row of a .csv; of anything else, nothing."""
    if source.suffix.lower() != ".csv" or not source.is_file():
        return []
    return list(open_table(source).fieldnames or ())


def read_folder(root: str | Path) -> tuple[list[VideoRecord], list[str]]:
    """Read a folder that has one folder per class.

    Classes are the names of the folders that have videos, in alphabetical order; a video may lie at
    any depth below its class, and may be a folder of numbered pictures. Names are paths relative to
    `root`. What is left out is told by a warning.

    Raises ValueError where there is no class folder or no video (known by `SUFFIXES`).
    """
    records, classes, notes = read_class_folders(Path(root))
    for note in notes:
        warnings.warn(f"{root}: {note}", stacklevel=2)
    return records, classes


def read_class_folders(root: Path) -> tuple[list[VideoRecord], list[str], list[str]]:
    """Read a folder of class folders: its videos, its classes, and what there is to say."""
    found = walk(root)
    videos: defaultdict[str, list[Path]] = defaultdict(list)
    loose = []
    for path in found.videos:
        parts = path.relative_to(root).parts
        if len(parts) > 1:
            videos[parts[0]].append(path)
        else:
            loose.append(path.name)
    classes = sorted(videos)
    records = [
        VideoRecord(path, (label,), path.relative_to(root).as_posix())
        for label, name in enumerate(classes)
        for path in sorted(videos[name])
    ]
    notes = found.notes()
    if not records:
        hint = "; they lie directly in it: is the data its parent folder?" if loose else ""
        rest = f" ({'; '.join(notes)})" if notes else ""
        raise ValueError(
            f"{root}: no videos found; expected CLASS/VIDEO with one of "
            f"{', '.join(SUFFIXES[:6])}, ..., or CLASS/VIDEO/00001.jpg{hint}{rest}"
        )
    if loose:
        notes.append(name_some("{} video{s} lie{s3} in no class folder, and {is} left out", loose))
    empty = sorted(set(_folders(root)) - set(classes) - set(loose))
    if empty:
        notes.append(name_some("{} class folder{s} {has} no video, and {is} no class{es}", empty))
    return records, classes, notes


def _folders(root: Path) -> list[str]:
    return [p.name for p in root.iterdir() if not p.name.startswith(".") and p.is_dir()]


def read_list(
    file: str | Path, root: str | Path | None = None, classes: Sequence[str] | None = None
) -> tuple[list[VideoRecord], list[str]]:
    """Read a list: one "PATH LABEL" a line, as the official code's, or "DIR NUM_FRAMES LABEL".

    LABEL is the last word, so PATH may hold spaces; "1,5,7" gives several labels, "-" none. Columns
    may be parted by commas, semicolons or tabs, fields be quoted, and a first line may name the
    columns. A relative path starts at `root`, by default the list's folder. Without `classes` the
    names are "0", "1", ... up to the largest label. Names are the paths as written.

    DIR is a folder of numbered pictures. All frames there are used; NUM_FRAMES only tells such a
    list from one of videos whose names end in a number, and is compared by `data check`.

    Raises ValueError, naming file, line and content, for a line that is not of this form.
    """
    file = Path(file)
    if is_video(file.name):
        raise ValueError(f"{file} is a video: name a folder of videos, or a list of them")
    base = file.parent if root is None else Path(root)
    rows = read_rows(file)
    if not rows:
        raise ValueError(f"{file}: the list is empty")
    frames = _lists_frames(rows, base)
    records = []
    for row in rows:
        labels = _labels(row.labels)
        if labels is None or not row.path:
            raise ValueError(
                f'{row.where}: expected "PATH LABEL" with a whole number, or several joined by '
                f'commas, or "DIR NUM_FRAMES LABEL", got {row.text!r}'
            )
        path, count = row.path, None
        if frames and row.folder is not None:
            path, count = row.folder
        records.append(VideoRecord(base / path, labels, path, count))
    smallest = min((label for record in records for label in record.labels), default=0)
    for row, record in zip(rows, records, strict=True):
        _check_range(record.labels, classes, row.where, smallest)
    return records, _class_names(records, classes, "{}")


def _lists_frames(rows: Sequence[Row], base: Path) -> bool:
    """Whether a number before the label counts frames, and is not the end of a video's name."""
    asked = [row.folder[0] for row in rows if row.folder is not None]
    return any((base / path).is_dir() for path in asked) or len(asked) == len(rows)


def read_charades(
    file: str | Path, root: str | Path | None = None, classes: Sequence[str] | None = None
) -> tuple[list[VideoRecord], list[str]]:
    """Read a Charades-style table: columns id and actions, "c092 11.90 21.20;c147 0.00 12.60".

    A video has every label among its actions (the number after the c; times are not used, an
    empty field means no label) and lies at root/ID.mp4, or with another of `SUFFIXES` where that
    file exists; `root` is by default the table's folder. Without `classes` the names are "c000",
    "c001", ... up to the largest label. Names are the ids.

    Raises ValueError, naming file, line and content, for missing columns and malformed actions.
    """
    file = Path(file)
    base = file.parent if root is None else Path(root)
    present = set(os.listdir(base)) if base.is_dir() else set()
    records = []
    table = open_table(file)
    missing = {"id", "actions"} - set(table.fieldnames or ())
    if missing:
        raise ValueError(
            f"{file}:1: a Charades-style table needs the columns id and actions, "
            f"got {', '.join(table.fieldnames or ()) or 'none'}"
        )
    for row in table:
        where, name, actions = f"{file}:{table.line_num}", row["id"], row["actions"]
        if not name or actions is None:
            raise ValueError(f"{where}: id or actions is missing in {list(row.values())}")
        firsts = [action.split()[0] for action in actions.split(";") if action.strip()]
        labels = _labels([f[1:] if f.startswith("c") else "" for f in firsts])
        if labels is None:
            raise ValueError(
                f'{where}: expected actions such as "c092 11.90 21.20;c147 0.00 12.60", '
                f"got {actions!r}"
            )
        _check_range(labels, classes, where)
        # or a folder of that name, with its frames
        found = (name + suffix for suffix in (*SUFFIXES, "") if name + suffix in present)
        records.append(VideoRecord(base / next(found, name + ".mp4"), labels, name))
    if not records:
        raise ValueError(f"{file}: the table is empty")
    return records, _class_names(records, classes, "c{:03d}")


def _labels(words: Sequence[str]) -> tuple[int, ...] | None:
    if list(words) == ["-"]:
        return ()
    if not all(word.isascii() and word.isdigit() for word in words):
        return None
    return tuple(sorted({int(word) for word in words}))


def _check_range(
    labels: tuple[int, ...], classes: Sequence[str] | None, where: str, smallest: int = 0
) -> None:
    if classes is not None and labels and labels[-1] >= len(classes):
        hint = ""
        if smallest == 1 and labels[-1] == len(classes):
            hint = "; the labels of this list start at 1, and must start at 0: subtract 1 from each"
        raise ValueError(
            f"{where}: label {labels[-1]} is beyond the {len(classes)} classes, 0 to "
            f"{len(classes) - 1}{hint}"
        )


def _class_names(
    records: list[VideoRecord], classes: Sequence[str] | None, pattern: str
) -> list[str]:
    if classes is not None:
        return list(classes)
    largest = max((label for record in records for label in record.labels), default=-1)
    return [pattern.format(label) for label in range(largest + 1)]
