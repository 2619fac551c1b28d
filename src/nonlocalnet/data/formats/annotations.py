"""What the annotation files of the well-known data sets say, one function a format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nonlocalnet.data.find_videos import VideoTree
from nonlocalnet.data.formats.rows import open_table, read_text

KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}


@dataclass(frozen=True)
class Listed:
    """A video as a list names it: its class by name, or its labels; its file, if there is one."""

    name: str
    label: str | tuple[int, ...]
    path: Path | None
    where: str
    num_frames: int | None = None


@dataclass(frozen=True)
class Annotations:
    """Two splits and the names of the classes in their order; `named` if they are real names."""

    train: list[Listed]
    val: list[Listed]
    classes: list[str]
    named: bool = True
    multi_label: bool = False
    mirrored: bool = True
    notes: tuple[str, ...] = ()  # what was left out, and what looks odd
    walked: bool = False  # the notes are of a walk through the folder


def read_kinetics(tables: Sequence[Path], tree: VideoTree) -> Annotations:
    """Read Kinetics-400, -600 or -700: label,youtube_id,time_start,time_end[,split[,is_cc]].

    A video is ID_SSSSSS_EEEEEE or ID, with any suffix; of several, one below folders of its split
    and label. The split is the column's, else the table's name says it; test rows, which have no
    labels or are not trained on, are left out. Classes in alphabetical order, as everywhere.

    Raises ValueError, naming table and line, for times that are no numbers and missing fields.
    """
    splits: dict[str, list[Listed]] = {"train": [], "val": []}
    names: set[str] = set()
    for table in tables:
        rows = open_table(table)
        for row in rows:
            where = f"{table}:{rows.line_num}"
            split = _split_of(row.get("split") or table.stem, where)
            if split == "test":
                continue
            name, label = row["youtube_id"], (row.get("label") or "").strip()
            if not name or not label:
                raise ValueError(f"{where}: label or youtube_id is missing in {row}")
            try:
                start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
            except (TypeError, ValueError):
                raise ValueError(
                    f"{where}: time_start and time_end must be seconds, got "
                    f"{row['time_start']!r} and {row['time_end']!r}"
                ) from None
            cut = f"{name}_{start:06d}_{end:06d}"
            folders = [label, split] + ["validate", "validation"] * (split == "val")
            path = tree.find(cut, *folders) or tree.find(name, *folders)
            names.add(label)
            splits[split].append(Listed(cut, label, path, where))
    classes = sorted(names)
    return Annotations(splits["train"], splits["val"], classes)


def _split_of(text: str, where: str) -> str:
    for split in ("train", "val", "test"):
        if split in text.lower():
            return split
    raise ValueError(f"{where}: the split must be train, val(idate) or test, got {text!r}")


def read_ucf101(folder: Path, split: int, tree: VideoTree) -> Annotations:
    """Read UCF101's classInd.txt ("1 ApplyEyeMakeup"), trainlist0S.txt and testlist0S.txt.

    Labels there start at 1 and stand in the training list only; the class is the video's folder,
    in both, and a label that says another is a ValueError that names list and line.
    """
    index = folder / "classInd.txt"
    classes = []
    for where, line in _lines(index):
        number, _, name = line.partition(" ")
        classes.append(name.strip())
        if number != str(len(classes)) or not name:
            raise ValueError(f'{where}: expected "{len(classes)} CLASS", got {line!r}')

    def read(list_file: Path) -> Iterator[Listed]:
        for where, line in _lines(list_file):
            name, *label = line.split()
            clip = Path(name)
            if len(clip.parts) < 2 or len(label) > 1:
                raise ValueError(f'{where}: expected "CLASS/VIDEO LABEL", got {line!r}')
            known = clip.parent.name
            if label and label[0] not in [str(i) for i, c in enumerate(classes, 1) if c == known]:
                raise ValueError(f"{where}: label {label[0]} is not that of {known!r} in {index}")
            yield Listed(name, known, tree.find(clip.stem, known), where)

    train, val = (list(read(folder / f"{part}list{split:02d}.txt")) for part in ("train", "test"))
    return Annotations(train, val, classes)


def read_hmdb51(folder: Path, split: int, tree: VideoTree) -> Annotations:
    """Read HMDB51's CLASS_test_splitS.txt: "VIDEO 1" is for training, 2 for the test, 0 unused.

    Raises ValueError, naming list and line, for another number.
    """
    ending = f"_test_split{split}.txt"
    parts: dict[str, list[Listed]] = {"0": [], "1": [], "2": []}
    classes = sorted(file.name.removesuffix(ending) for file in folder.glob(f"*{ending}"))
    for label in classes:
        for where, line in _lines(folder / (label + ending)):
            words = line.rsplit(maxsplit=1)
            if len(words) != 2 or words[1] not in parts:
                raise ValueError(f'{where}: expected "VIDEO 0", 1 or 2, got {line!r}')
            path = tree.find(Path(words[0]).stem, label)
            parts[words[1]].append(Listed(words[0], label, path, where))
    return Annotations(parts["1"], parts["2"], classes)


def read_something(train: Path, val: Path | None, labels: Path, tree: VideoTree) -> Annotations:
    """Read Something-Something v2: lists of {"id", "template", ...} and {label: number}.

    A template without its brackets, "Approaching [something]", is the label. Raises ValueError,
    naming list and entry, for one without id and template.
    """
    numbers = _json(labels, dict)
    classes = sorted(numbers, key=lambda name: int(numbers[name]))

    def read(list_file: Path) -> Iterator[Listed]:
        for i, entry in enumerate(_json(list_file, list), 1):
            where = f"{list_file}: entry {i}"
            if not isinstance(entry, dict) or not {"id", "template"} <= set(entry):
                raise ValueError(f"{where}: expected id and template, got {entry!r}")
            label = entry["template"].replace("[", "").replace("]", "")
            name = str(entry["id"])
            yield Listed(name, label, tree.find(name), where)

    return Annotations(list(read(train)), [] if val is None else list(read(val)), classes)


def read_jester(train: Path, val: Path | None, labels: Path, tree: VideoTree) -> Annotations:
    """Read Jester and Something-Something v1: "ID;LABEL" a line, and a list of the labels.

    A video is a folder ID of frames, or a file. Raises ValueError, naming list and line, for
    another form.
    """

    def read(list_file: Path) -> Iterator[Listed]:
        for where, line in _lines(list_file):
            name, mark, label = line.partition(";")
            if not mark or not name:
                raise ValueError(f'{where}: expected "ID;LABEL", got {line!r}')
            yield Listed(name, label.strip(), tree.find(name), where)

    classes = read_names(labels)
    return Annotations(list(read(train)), [] if val is None else list(read(val)), classes)


def read_charades_classes(file: Path) -> list[str]:
    """Read Charades_v1_classes.txt, "c000 Holding some clothes", in order of the numbers."""
    classes = []
    for where, line in _lines(file):
        code, _, name = line.partition(" ")
        if code != f"c{len(classes):03d}" or not name:
            raise ValueError(f'{where}: expected "c{len(classes):03d} NAME", got {line!r}')
        classes.append(name.strip())
    return classes


def read_names(file: Path) -> list[str]:
    """Read a file of class names, one a line."""
    return [line for _, line in _lines(file)]


def _lines(file: Path) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if line.strip():
            yield f"{file}:{number}", line.strip()


def _json(file: Path, kind: type) -> dict | list:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(content, kind):
        raise ValueError(f"{file}: expected a JSON {kind.__name__}, got {type(content).__name__}")
    return content
