"""Read the text files of data sets: lines, tables and JSON, in any usual encoding."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", dict, list)

HEAD = 1 << 16  # bytes that hold a table's first line


def read_text(file: Path, size: int = -1) -> str:
    """Read a file, or its first `size` bytes: UTF-8, or what its byte order mark says.

    File names need not be UTF-8: surrogates stand for their bytes.
    """
    with file.open("rb") as opened:
        data = opened.read(size)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # spreadsheets' "Unicode text"
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="surrogateescape")


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Give ("FILE:NUMBER", line) for each line that is not empty."""
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if line.strip():
            yield f"{file}:{number}", line.strip()


def read_names(file: Path) -> list[str]:
    """Read names, one a line."""
    return [line for _, line in read_lines(file)]


def open_table(file: Path, size: int = -1) -> csv.DictReader:
    """Open a .csv whose first line names its columns; the delimiter may be a comma, ; or a tab."""
    return parse_table(read_text(file, size))


def parse_table(text: str) -> csv.DictReader:
    """Read the text of a .csv, as `open_table` does."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=line.count)
    lines = io.StringIO(text.lstrip("\r\n"), newline="")
    table = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
    table.fieldnames = [name.strip() for name in table.fieldnames or ()]
    return table


def read_columns(file: Path) -> set[str]:
    """Read the column names of a .csv; a file of another kind has none."""
    if file.suffix.lower() != ".csv" or not file.is_file():
        return set()
    return set(open_table(file, HEAD).fieldnames or ())


def read_json(file: Path, kind: type[T]) -> T:
    """Read a JSON file whose content is of a kind, `dict` or `list`.

    Raises:
        ValueError: it is no JSON, or of another kind.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(content, kind):
        raise ValueError(f"{file}: expected a JSON {kind.__name__}, got {type(content).__name__}")
    return content
