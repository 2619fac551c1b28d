"""Split the lines of lists into a path and a label: words, or columns of any dialect of .csv."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nonlocalnet.data.formats.text import parse_table, read_text
from nonlocalnet.data.suffixes import is_video

PATH_COLUMNS = ("path", "video_path", "filepath", "file_path", "video", "filename", "file_name")
PATH_COLUMNS += ("file", "video_name", "name", "clip", "clip_path", "frame_dir", "dir", "folder")
LABEL_COLUMNS = ("label", "labels", "label_id", "class", "class_id", "target", "class_index")
COUNT_COLUMNS = ("num_frames", "total_frames", "frames", "n_frames")


class Folder(NamedTuple):
    """A line read as a folder of frames: "NAME COUNT LABEL"."""

    name: str
    count: int
    label: str


@dataclass(frozen=True)
class Row:
    """A line of a list, split but not checked.

    Args:
        where: file and line, for messages.
        text: the line.
        path: empty where the line has none.
        label: one number, several, or a name.
        folders: the same line read as a folder of frames, in every possible way: names may end in
            numbers. The longest name is the first.
        unused: names of columns of the list that are not read.
    """

    where: str
    text: str
    path: str
    label: str
    folders: tuple[Folder, ...] = ()
    unused: tuple[str, ...] = ()


def read_rows(file: Path) -> list[Row]:
    """Read the lines of a list that are not empty.

    "PATH LABEL" is split at its last blank, or after the suffix of a video. A line is read as .csv
    if the first line names columns, if that split gives no number, or if it leaves a comma,
    semicolon or tab at the end of the path. Lines end in \\n, \\r\\n or \\r; Python's other line
    ends may be part of a name.
    """
    text = read_text(file)  # once: it may be a pipe
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = [(n, line) for n, line in enumerate(plain.split("\n"), 1) if line.strip()]
    if not lines:
        return []
    header = _header(lines[0][1])
    if header is not None:
        return list(_table(file, parse_table(text), header))
    if _names_words(lines[0][1]):
        del lines[0]
    delimiter = _delimiter([line for _, line in lines])
    return [_row(f"{file}:{number}", line.strip(), delimiter) for number, line in lines]


def _row(where: str, line: str, delimiter: str) -> Row:
    fields = _fields(line, delimiter)
    if len(fields) == 2 and is_video(fields[0]) and all(map(is_label, split_labels(fields[1]))):
        return Row(where, line, fields[0], fields[1])
    several = re.fullmatch(r"(.*?\S)((?:\s+[0-9]+){2,})", line)  # MMAction2's: "a.mp4 1 5"
    if several and is_video(several[1]):
        return Row(where, line, several[1], several[2].strip())
    *path, last = line.rsplit(maxsplit=1)
    if path and all(map(is_label, last.split(","))) and path[0][-1] not in ',;"':
        return Row(where, line, path[0], last, tuple(_folders(path[0], last)))
    if len(fields) == 3 and fields[1].isdecimal() and not is_video(fields[0]):
        folder = Folder(fields[0], int(fields[1]), fields[2])
        return Row(where, line, f"{fields[0]} {fields[1]}", fields[2], (folder,))
    if len(fields) > 2 and is_video(fields[-2]) and not any(map(is_video, fields[:-2])):
        fields = [line.rpartition(delimiter)[0].strip(), fields[-1]]  # commas of the path's own
    if len(fields) == 2 and is_video(fields[0]):
        return Row(where, line, fields[0], fields[1])
    if len(fields) == 2:
        words = fields[0].rsplit(maxsplit=1)
        if len(words) == 2 and is_video(words[0]) and is_label(words[1]):  # "a.mp4 1, 2"
            return Row(where, line, words[0], f"{words[1]},{fields[1]}")
    for blank in re.finditer(r"\s+", line):  # "a b.mp4 long jump"
        if is_video(line[: blank.start()]):
            return Row(where, line, line[: blank.start()], line[blank.end() :])
    if len(fields) == 2:
        return Row(where, line, fields[0], fields[1])
    named = re.fullmatch(r"(.*?\S)\s+([0-9]+)\s+([^\W\d].*)", line)
    if named and len(fields) < 3:  # "DIR 29 long jump"
        folder = Folder(named[1], int(named[2]), named[3])
        return Row(where, line, f"{named[1]} {named[2]}", named[3], (folder,))
    if path and len(fields) < 3:
        return Row(where, line, path[0], last)
    return Row(where, line, "", "")


def _folders(path: str, label: str) -> Iterator[Folder]:
    """Read "NAME 29 1" with the label 5 as "NAME 29" of one frame and as NAME of 29."""
    while True:
        name, *number = path.rsplit(maxsplit=1)
        if not number or not (number[0].isascii() and number[0].isdecimal()) or is_video(name):
            return
        yield Folder(name, int(number[0]), label)
        path, label = name, f"{number[0]} {label}"


def _table(file: Path, table: csv.DictReader, header: tuple[str, str, str | None]) -> Iterator[Row]:
    path, labels, count = header
    unused = tuple(name for name in table.fieldnames or () if name.lower() not in header)
    for fields in table:
        known = {name.lower(): field for name, field in fields.items() if isinstance(field, str)}
        line = ",".join(known.values())
        name, number = known.get(path, "").strip(), known.get(count or "", "").strip()
        label = known.get(labels, "").strip()
        counted = number.isdecimal() and not is_video(name)
        yield Row(
            f"{file}:{table.line_num}",
            line,
            f"{name} {number}" if counted else name,
            label,
            (Folder(name, int(number), label),) if counted else (),
            unused,
        )


def _names_words(line: str) -> bool:
    """Whether a line is "path label", or another such header without commas."""
    words = line.lower().split()
    return len(words) > 1 and words[0] in PATH_COLUMNS and words[-1] in LABEL_COLUMNS


def _header(line: str) -> tuple[str, str, str | None] | None:
    names = [name.lower() for name in _fields(line, max(",;\t", key=line.count))]

    def find(known: Sequence[str]) -> str | None:
        return next((name for name in names if name in known), None)

    path, labels = find(PATH_COLUMNS), find(LABEL_COLUMNS)
    return None if path is None or labels is None else (path, labels, find(COUNT_COLUMNS))


def _fields(line: str, delimiter: str) -> list[str]:
    fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return [field.strip() for field in fields]


def _delimiter(lines: Sequence[str]) -> str:
    """Choose what every line has; tabs and semicolons first, as paths may hold commas."""
    for mark in ("\t", ";", ","):
        if all(mark in line for line in lines):
            return mark
    return ","


def split_labels(text: str) -> tuple[str, ...]:
    """Split several labels at commas, semicolons and blanks."""
    return tuple(re.split(r"[\s,;]+", text.strip()))


def is_label(word: str) -> bool:
    """Whether a word is a number, or "-" for none."""
    return word == "-" or (word.isascii() and word.isdecimal())
