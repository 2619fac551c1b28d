"""Console output, progress bars, and the log of a run in metrics.jsonl."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import textwrap
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nonlocalnet.errors import PATH_LIMIT, printable


class _SafeConsole(Console):
    """A console on which names of files and classes cannot move the cursor or hide text."""

    @property
    def is_terminal(self) -> bool:
        """Whether bars can be drawn: not in a pipe, even if FORCE_COLOR is set, as in notebooks."""
        return self.is_jupyter or (not self.file.closed and self.file.isatty())

    def render_str(self, text: str, **options: Any) -> Text:
        lines = (printable(line, PATH_LIMIT) for line in text.split("\n"))
        return super().render_str("\n".join(lines), **options)


console = _SafeConsole(highlight=False, markup=False)  # results, on stdout
# messages and progress, on stderr: on one console, else they would overwrite each other
status = _SafeConsole(highlight=False, markup=False, stderr=True)


@contextlib.contextmanager
def without_messages() -> Generator[None]:
    """Show neither messages nor progress."""
    before, status.quiet = status.quiet, True
    try:
        yield
    finally:
        status.quiet = before


def print_table(table: Table) -> None:
    """Print a table if it fits the terminal (80 columns if there is none), without wrapping names.

    A wider table is printed as paragraphs, one per row: the first cell, then the others that are
    known, with their headers.
    """
    wide = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    if wide <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(table.title)
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    headers = [str(column.header) for column in table.columns]
    for first, *others in zip(*cells, strict=True):
        told = [
            f"{name} {cell}".strip()
            for name, cell in zip(headers[1:], others, strict=True)
            if cell not in ("", "–")
        ]
        text = textwrap.fill(
            ", ".join(told),
            console.width,
            initial_indent="  ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        console.print(f"{first}\n{text}".rstrip(), soft_wrap=True)


class MetricsLog:
    """Append JSON objects to a file, one per line; each line is flushed when it is written.

    Args:
        path: the file.
        trackers: called with each line, as a dictionary, after it was written. One that raises is
            named and not called again: the run continues.
    """

    def __init__(
        self, path: Path, trackers: Sequence[Callable[[dict[str, Any]], None]] = ()
    ) -> None:
        self.path, self.trackers = path, list(trackers)
        self.lines: list[str] = []  # the content of the file, which checkpoints keep too

    def write(self, kind: str, **values: Any) -> None:
        """Append a line {"kind": kind, ...}; NaN and infinity, which JSON lacks, become null."""
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        entry = {"kind": kind, **clean}
        line = json.dumps(entry)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise OSError(f"{self.path} could not be written: {error.strerror}") from None
        self.lines.append(line)
        for tracker in [*self.trackers]:
            self._call(tracker, lambda tracker=tracker: tracker(dict(entry)))

    def close(self) -> None:
        """Close the trackers that can be closed."""
        for tracker in [*self.trackers]:
            self._call(tracker, getattr(tracker, "close", lambda: None))

    def _call(self, tracker: Callable, function: Callable[[], object]) -> None:
        try:
            function()
        except Exception as error:  # whatever a tool or its server does
            self.trackers.remove(tracker)
            name, reason = tracker.__module__, f"{type(error).__name__}: {error}"
            status.print(f"the tracker of {name} gets no more numbers: {reason}")

    def restore(self, lines: Sequence[str]) -> bool:
        """Replace the content of the file by these lines; return whether it started with them."""
        self.lines = list(lines)
        text = "".join(line + "\n" for line in lines)
        try:
            found = self.path.read_text(errors="replace")
        except FileNotFoundError:
            found = ""
        if found != text:
            partial = self.path.with_suffix(".partial")
            partial.write_text(text)
            partial.replace(self.path)
        return found.startswith(text)

    def truncate(self, **last: int) -> int:
        """Delete damaged lines, and lines after the last iteration of their kind.

        A resumed run writes the later lines again.

        Args:
            last: last iteration to keep, by kind.

        Returns:
            The number of damaged lines.
        """
        if not self.path.exists():
            return 0
        lines, damaged = read_lines(self.path)
        known = [line for line in lines if is_number(line.get("iteration"))]
        kept = [line for line in known if line["iteration"] <= last.get(line["kind"], 0)]
        self.restore([json.dumps(line) for line in kept])
        return damaged + len(lines) - len(known)


def is_number(value: Any) -> bool:
    """Return whether a value is a number that fits a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # false for a huge integer and for NaN


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read a metrics.jsonl; return its lines and the number of damaged ones."""
    lines, damaged = [], 0
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and isinstance(line.get("kind"), str):
            lines.append(line)
        else:
            damaged += 1
    return lines, damaged


def read_metrics(path: Path, kind: str) -> list[dict[str, Any]]:
    """Read the lines of one kind from a metrics.jsonl, without damaged ones."""
    return [line for line in read_lines(path)[0] if line["kind"] == kind]


class Bar:
    """Show progress: a live bar on a terminal, otherwise a line every `every` seconds."""

    def __init__(self, title: str, total: int, done: int = 0, every: float = 30.0) -> None:
        self.title, self.total, self.every = title, total, every
        self.done, self.text, self._said = done, "", time.monotonic()
        self._start, self._done_at_start = time.monotonic(), done
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=status,
            transient=True,
            disable=not status.is_terminal,
        )
        self._task = self._progress.add_task(title, total=total, completed=done, text="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def reach(self, done: int, total: int) -> None:
        """Advance to a number of steps of a total that was not known before."""
        self.total = total
        self._progress.update(self._task, total=total)
        self.advance(done - self.done)

    def advance(self, steps: int = 1, text: str = "") -> None:
        """Advance by a number of steps, with a short text beside the bar."""
        self.done, self.text = self.done + steps, text or self.text
        self._progress.update(self._task, completed=self.done, text=self.text)
        now = time.monotonic()
        if not status.is_terminal and now - self._said >= self.every:
            self._said = now
            rate = (self.done - self._done_at_start) / (now - self._start)
            left = (self.total - self.done) / rate if rate else math.inf
            status.print(
                f"{self.title} {self.done}/{self.total}  {self.text}  {left:.0f} s left",
                soft_wrap=True,
            )
