"""One list of labelled videos: from a folder per class, a text list, or a Charades-style table."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nonlocalnet.data.tree import SUFFIXES, is_video


@dataclass(frozen=True)
class VideoRecord:
    """Name one video and its labels: one, several (multi-label) or none."""

    path: Path
    labels: tuple[int, ...]
    name: str


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
    with source.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        return next(csv.reader(lines), [])


def read_folder(root: str | Path) -> tuple[list[VideoRecord], list[str]]:
    """Read a folder that has one folder per class.

    Classes are the names of the folders that have videos, in alphabetical order; a video may lie at
    any depth below its class. Names are paths relative to `root`.

    Raises ValueError where there is no class folder or no video (known by `SUFFIXES`).
    """
    root = Path(root)
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    videos = {
        name: [p for p in sorted((root / name).rglob("*")) if is_video(p.name)] for name in folders
    }
    classes = [name for name in folders if videos[name]]
    records = [
        VideoRecord(path, (label,), path.relative_to(root).as_posix())
        for label, name in enumerate(classes)
        for path in videos[name]
    ]
    if not records:
        here = any(is_video(p.name) for p in root.iterdir())
        hint = "; they lie directly in it: is the data its parent folder?" if here else ""
        raise ValueError(
            f"{root}: no videos found; expected CLASS/VIDEO with one of {', '.join(SUFFIXES)}{hint}"
        )
    return records, classes


def read_list(
    file: str | Path, root: str | Path | None = None, classes: Sequence[str] | None = None
) -> tuple[list[VideoRecord], list[str]]:
    """Read a text list: one "PATH LABEL" a line, as the official code's; in a .csv PATH,LABEL, too.

    LABEL is the last word, so PATH may hold spaces; "1,5,7" gives several labels, "-" none. A
    relative path starts at `root`, by default the list's folder. Without `classes` the names are
    "0", "1", ... up to the largest label. Names are the paths as written.

    Raises ValueError, naming file, line and content, for a line that is not of this form.
    """
    file = Path(file)
    if is_video(file.name):
        raise ValueError(f"{file} is a video: name a folder of videos, or a list of them")
    base = file.parent if root is None else Path(root)
    records = []
    # file names need not be UTF-8: surrogates carry their bytes through
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        words = line.strip().rsplit(maxsplit=1)
        labels = _labels(words[-1].split(","))
        if file.suffix.lower() == ".csv" and (len(words) != 2 or labels is None):
            words = next(csv.reader([line.strip()]))
            labels = _labels(words[-1].split())
        if len(words) != 2 or labels is None:
            raise ValueError(
                f'{where}: expected "PATH LABEL" with a whole number, or several joined by commas, '
                f"got {line!r}"
            )
        _check_range(labels, classes, where)
        records.append(VideoRecord(base / words[0], labels, words[0]))
    if not records:
        raise ValueError(f"{file}: the list is empty")
    return records, _class_names(records, classes, "{}")


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
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        table = csv.DictReader(lines)
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
            found = (name + suffix for suffix in SUFFIXES if name + suffix in present)
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


def _check_range(labels: tuple[int, ...], classes: Sequence[str] | None, where: str) -> None:
    if classes is not None and labels and labels[-1] >= len(classes):
        raise ValueError(
            f"{where}: label {labels[-1]} is beyond the {len(classes)} classes, 0 to "
            f"{len(classes) - 1}"
        )


def _class_names(
    records: list[VideoRecord], classes: Sequence[str] | None, pattern: str
) -> list[str]:
    if classes is not None:
        return list(classes)
    largest = max((label for record in records for label in record.labels), default=-1)
    return [pattern.format(label) for label in range(largest + 1)]
