"""A file of predictions that grows by one row per video, and that a later run continues.

A row is written when its video is computed. Next to the file, FILE.json says which weights and
views the rows are from, so that rows of others are never mixed in. Several processes write
FILE.part1, FILE.part2, ..., which the first process adds to the file at the start and at the end. A
Parquet file cannot be appended to: its rows grow in FILE.jsonl, from which it is written at the
end.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from nonlocalnet.errors import check_choice
from nonlocalnet.runtime.atomic import write_atomically

SUFFIXES = (".csv", ".jsonl", ".parquet")
OTHER = "choose another file, or delete it"


class Row(NamedTuple):
    """A video with its most probable classes, or with the reason why it could not be read."""

    video: str
    classes: Sequence[tuple[str, float]] = ()
    error: str = ""


def check_suffix(path: Path) -> None:
    """Check that predictions can be written to a file of this name.

    Raises:
        ValueError: it has another suffix than `SUFFIXES`.
        ModuleNotFoundError: it is a Parquet file, and pyarrow is not installed.
    """
    check_choice("suffix of the file", path.suffix.lower(), SUFFIXES)
    if path.suffix.lower() == ".parquet":
        import_module("pyarrow")


class PredictionFile:
    """Rows of predictions in a .csv, .jsonl or .parquet file.

    Args:
        path: the file.
        about: what the rows are computed with: values for JSON.
        top: number of classes of each row.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], top: int) -> None:
        self.path, self.about = path, {**about, "top": top}
        parquet = path.suffix.lower() == ".parquet"
        self._rows = _beside(path, ".jsonl") if parquet else path  # the file that grows
        self._format = _Csv(top) if path.suffix.lower() == ".csv" else _JsonLines()
        self._top = top

    def check(self) -> None:
        """Check that the rows of an existing file are from the same weights and views.

        Raises:
            ValueError: they are not, or nothing says what they are from.
        """
        if not self._rows.exists():
            if self.path.exists():
                raise ValueError(f"{self.path} exists, and {self._rows} does not: {OTHER}")
            return
        beside = _beside(self.path, ".json")
        try:
            known = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ValueError(
                f"{self.path} exists, and {beside}, which says what it was computed with, cannot "
                f"be read: {OTHER}"
            ) from None
        differ = [
            name
            for name in {**self.about, **known}
            if name != "weights" and known.get(name) != self.about.get(name)
        ]
        if differ:
            told = ", ".join(
                "other weights"
                if name == "sha256"
                else f"{name} {known.get(name)} instead of {self.about.get(name)}"
                for name in differ
            )
            raise ValueError(f"{self.path} has rows computed with {told}: {OTHER}")

    def collect(self) -> dict[str, str]:
        """Bring all rows into the file, and tell which videos it has.

        Rows in the files of other processes are added, rows that were cut off are dropped. Only one
        process may do this, while no other writes.

        Returns:
            By video, its error; "" for one that could be read.
        """
        parts = sorted(self._parts())
        rows: dict[str, Row] = {}
        damaged = False
        for file in [self._rows, *parts]:
            if file.exists():
                text = file.read_bytes().decode("utf-8", errors="surrogateescape")
                found, whole = self._format.decode(text)
                damaged |= not whole
                for row in found:
                    rows.setdefault(row.video, row)
        if parts or damaged or not self._rows.exists():
            about = json.dumps(self.about, indent=1) + "\n"
            write_atomically(_beside(self.path, ".json"), lambda file: file.write_text(about))
            text = self._format.header + "".join(map(self._format.encode, rows.values()))
            data = text.encode("utf-8", errors="surrogateescape")
            write_atomically(self._rows, lambda file: file.write_bytes(data))
        for part in parts:
            part.unlink()
        return {video: row.error for video, row in rows.items()}

    @contextlib.contextmanager
    def append(self, process: int = 0) -> Generator[Callable[[Row], None]]:
        """Open the file of a process; yields a function that appends a row and flushes it."""
        path = _beside(self._rows, f".part{process}") if process else self._rows
        with path.open("ab") as file:

            def write(text: str) -> None:
                file.write(text.encode("utf-8", errors="surrogateescape"))
                file.flush()

            if not file.tell():
                write(self._format.header)
            yield lambda row: write(self._format.encode(row))

    def finish(self) -> None:
        """Write the Parquet file from the rows; other files are complete already."""
        if self.path == self._rows:
            return
        pyarrow, parquet = map(import_module, ("pyarrow", "pyarrow.parquet"))
        rows, _ = self._format.decode(self._rows.read_text(encoding="utf-8"))
        cells = [_cells(row, self._top) for row in rows]
        columns = [[cell[k] for cell in cells] for k in range(2 + 2 * self._top)]
        kinds = [pyarrow.string(), pyarrow.float32()]
        types = [kinds[0], *kinds * self._top, kinds[0]]
        table = pyarrow.table(
            [pyarrow.array(map(_utf8, c), t) for c, t in zip(columns, types, strict=True)],
            names=_names(self._top),
        )
        write_atomically(self.path, lambda file: parquet.write_table(table, file))

    def _parts(self) -> Iterator[Path]:
        start = f"{self._rows.name}.part"
        with contextlib.suppress(FileNotFoundError):
            for file in self._rows.parent.iterdir():
                if file.name.startswith(start) and file.name[len(start) :].isdecimal():
                    yield file


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _names(top: int) -> list[str]:
    pairs = ([f"class_{k}", f"probability_{k}"] for k in range(1, top + 1))
    return ["video", *(name for pair in pairs for name in pair), "error"]


def _cells(row: Row, top: int) -> list[Any]:
    """Return a row's values by column; None where there is none."""
    pairs = [*row.classes, *[(None, None)] * (top - len(row.classes))]
    return [row.video, *(cell for pair in pairs for cell in pair), row.error or None]


def _utf8(cell: Any) -> Any:
    """Replace the bytes of a file name that are not UTF-8, which Parquet cannot hold."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


class _Csv:
    """Columns video, class_1, probability_1, ..., error."""

    def __init__(self, top: int) -> None:
        self._top = top
        self.header = _line(_names(top))

    def encode(self, row: Row) -> str:
        cells = _cells(row, self._top)
        return _line(f"{cell:.6f}" if isinstance(cell, float) else cell for cell in cells)

    def decode(self, text: str) -> tuple[list[Row], bool]:
        """Return the complete rows, and whether there are no others."""
        lines = list(csv.reader(io.StringIO(text, newline="")))
        if not text.endswith("\n"):
            lines = lines[:-1]
        rows = []
        for cells in lines[1:]:
            with contextlib.suppress(ValueError):  # too few cells, or a text in place of a number
                video, *pairs, error = cells
                named = zip(pairs[::2], pairs[1::2], strict=True)
                classes = [(name, float(p)) for name, p in named if p]
                if len(pairs) == 2 * self._top:
                    rows.append(Row(video, classes, error))
        return rows, text.endswith("\n") and len(rows) == len(lines) - 1


class _JsonLines:
    """Objects {"video": ..., "classes": {class: probability}} or {"video": ..., "error": ...}."""

    header = ""

    def encode(self, row: Row) -> str:
        rest = {"error": row.error} if row.error else {"classes": dict(row.classes)}
        return json.dumps({"video": row.video, **rest}) + "\n"

    def decode(self, text: str) -> tuple[list[Row], bool]:
        """Return the complete rows, and whether there are no others."""
        *lines, rest = text.split("\n")
        rows = []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, AttributeError):
                row = json.loads(line)
                classes = list(row.get("classes", {}).items())
                rows.append(Row(row["video"], classes, row.get("error", "")))
        return rows, len(rows) == len(lines) and not rest


def _line(cells: Iterable[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


__all__ = ["SUFFIXES", "PredictionFile", "Row", "check_suffix"]
