"""Split the lines of lists into a path and labels: words, or columns of any dialect of .csv."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nonlocalnet.data.formats.text import open_table, read_text
from nonlocalnet.data.suffixes import is_video

PATH_COLUMNS = ("path", "video_path", "filepath", "file_path", "video", "filename", "file_name")
PATH_COLUMNS += ("file", "video_name", "name", "clip", "clip_path", "frame_dir", "dir", "folder")
LABEL_COLUMNS = ("label", "labels", "label_id", "class", "class_id", "target", "class_index")
COUNT_COLUMNS = ("num_frames", "total_frames", "frames", "n_frames")


@dataclass(frozen=True)
class Row:
    """A line of a list, split but not checked.

    Args:
        where: file and line, for messages.
        text: the line.
        path: empty where the line has none.
        labels: words.
        folder: the same line read as a folder and its number of frames, where that is possible.
    """

    where: str
    text: str
    path: str
    labels: tuple[str, ...]
    folder: tuple[str, int] | None = None


def read_rows(file: Path) -> list[Row]:
    """Read the lines of a list that are not empty.

    "PATH LABEL" is split at its last blank. A line is read as .csv if the first line names columns,
    if that split gives no label, or if it leaves a comma, semicolon or tab at the end of the path.
    Lines end in \\n, \\r\\n or \\r; Python's other line ends may be part of a name.
    """
    text = read_text(file).replace("\r\n", "\n").replace("\r", "\n")
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        return []
    header = _header(lines[0][1])
    if header is not None:
        return list(_table(file, header))
    delimiter = _delimiter([line for _, line in lines])
    return [_row(f"{file}:{number}", line.strip(), delimiter) for number, line in lines]


def _row(where: str, line: str, delimiter: str) -> Row:
    fields = _fields(line, delimiter)
    if len(fields) == 2 and is_video(fields[0]) and all(map(_is_label, _split(fields[1]))):
        return Row(where, line, fields[0], _split(fields[1]))
    several = re.fullmatch(r"(.*?\S)((?:\s+[0-9]+){2,})", line)  # MMAction2's: "a.mp4 1 5"
    if several and is_video(several[1]):
        return Row(where, line, several[1], _split(several[2]))
    *path, last = line.rsplit(maxsplit=1)
    labels = tuple(last.split(","))
    if path and all(map(_is_label, labels)) and path[0][-1] not in ',;"':
        return _with_folder(where, line, path[0], labels)
    if len(fields) == 3 and fields[1].isdecimal() and not is_video(fields[0]):
        folder = (fields[0], int(fields[1]))
        return Row(where, line, f"{fields[0]} {fields[1]}", _split(fields[2]), folder)
    if len(fields) > 2 and is_video(fields[-2]) and not any(map(is_video, fields[:-2])):
        fields = [line.rpartition(delimiter)[0].strip(), fields[-1]]  # commas of the path's own
    if len(fields) != 2:
        return Row(where, line, "", ())
    words = fields[0].rsplit(maxsplit=1)
    if len(words) == 2 and is_video(words[0]) and _is_label(words[1]):  # "a.mp4 1, 2"
        return Row(where, line, words[0], (words[1], *_split(fields[1])))
    return Row(where, line, fields[0], _split(fields[1]))


def _with_folder(where: str, line: str, path: str, labels: tuple[str, ...]) -> Row:
    words = path.rsplit(maxsplit=1)
    counted = len(words) == 2 and words[1].isascii() and words[1].isdecimal()
    folder = (words[0], int(words[1])) if counted and not is_video(words[0]) else None
    return Row(where, line, path, labels, folder)


def _table(file: Path, header: tuple[str, str, str | None]) -> Iterator[Row]:
    table = open_table(file)
    path, labels, count = header
    for fields in table:
        known = {name.lower(): field for name, field in fields.items() if isinstance(field, str)}
        line = ",".join(known.values())
        name, number = known.get(path, "").strip(), known.get(count or "", "").strip()
        counted = number.isdecimal() and not is_video(name)
        yield Row(
            f"{file}:{table.line_num}",
            line,
            f"{name} {number}" if counted else name,
            _split(known.get(labels, "")),
            (name, int(number)) if counted else None,
        )


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


def _split(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"[\s,;]+", text.strip()))


def _is_label(word: str) -> bool:
    return word == "-" or (word.isascii() and word.isdecimal())
