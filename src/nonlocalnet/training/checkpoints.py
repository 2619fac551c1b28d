"""Checkpoints of a run: atomic writes, verified reads, the newest few kept; a lock per folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from nonlocalnet.checkpoints import checksum
from nonlocalnet.runtime.atomic import write_atomically
from nonlocalnet.runtime.log import status

FORMAT = 2  # of checkpoints; 1 had no checksum, another number is another version's


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training state of tensors and plain values, with a checksum of the whole file."""

    def write(temporary: Path) -> None:
        torch.save({"format": FORMAT, **state}, temporary)
        checksum.sign(temporary)

    write_atomically(path, write)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training state; only tensors and plain values are accepted.

    Raises:
        ValueError: the file is damaged (a single bit is enough), is not a checkpoint, or is of
            another version.
    """
    try:
        signed = checksum.check(path)
        if not signed:
            _check_records(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail in any way
        reason = (
            str(error).partition(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        )
        raise ValueError(f"{path} is not a readable checkpoint: {reason}") from None
    found = state.pop("format", None) if isinstance(state, dict) else None
    if found not in (1, FORMAT):
        raise ValueError(
            f"{path} is not a checkpoint of this version: its format is {found}, not {FORMAT}"
        )
    if found == FORMAT and not signed:
        raise ValueError(f"{path} is not a readable checkpoint: its checksum is damaged")
    return state


def _check_records(path: Path) -> None:
    """Verify the checksums of a zip file's records, since torch does not."""
    with zipfile.ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise ValueError(f"it is damaged: the bytes of its record {name} have changed")


class Checkpoints:
    """Keep the newest states of a run: FOLDER/00001000.pt, the iteration as the name.

    Args:
        folder: where they are.
        keep: how many of them to keep.
        entries: what each of them must have.
    """

    def __init__(self, folder: Path, keep: int, entries: Sequence[str] = ()) -> None:
        self.folder, self.keep, self.entries = folder, keep, entries

    def files(self) -> list[Path]:
        """List the files, newest first."""
        files = [path for path in self.folder.glob("*.pt") if path.stem.isdecimal()]
        return sorted(files, key=lambda path: int(path.stem), reverse=True)

    def save(self, iteration: int, state: dict[str, Any]) -> None:
        """Write a state, then delete all but the newest `keep`.

        Files of later iterations are not counted and stay: they are there only if they could not
        be read when the run was resumed.
        """
        save_checkpoint(self.folder / f"{iteration:08d}.pt", state)
        for old in [path for path in self.files() if int(path.stem) <= iteration][self.keep :]:
            old.unlink(missing_ok=True)

    def load(self, *, quiet: bool = False) -> dict[str, Any] | None:
        """Read the newest state that can be read, and report those that cannot.

        Args:
            quiet: report nothing.

        Returns:
            The state; None if there is no file.

        Raises:
            ValueError: there are files, but none can be read.
        """
        files, reasons = self.files(), []
        for path in files:
            try:
                state = load_checkpoint(path)
                if missing := [name for name in self.entries if name not in state]:
                    raise ValueError(f"{path} is no state of a training run: it lacks {missing[0]}")
                return state
            except ValueError as error:
                reasons.append(str(error))
                if not quiet:
                    status.print(f"{error}; trying the one before", soft_wrap=True)
        if files:
            raise ValueError(f"no checkpoint of {self.folder} can be read: {reasons[0]}")
        return None


# what a run writes before its first update
FIRST_FILES = (".lock", "config.json", "metrics.jsonl", "checkpoints", "look", "tensorboard")


@contextlib.contextmanager
def run_folder(folder: Path, started: Callable[[], bool]) -> Generator[None]:
    """Create and lock the folder of a run; clean up if the run fails before its first update.

    Args:
        folder: after an error or an interrupt before `started()`, the files of the run in it are
            deleted, and the folder itself if it was created here; other files stay.
        started: returns whether there is something to keep.

    Raises:
        ValueError: another process has locked the folder.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    before = set(os.listdir(folder)) if folder.is_dir() else set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder):
            try:
                yield
            except BaseException:
                if not started():
                    _delete(folder / name for name in FIRST_FILES if name not in before)
                raise
    except BaseException:
        for path in made:  # innermost first; a folder that is not empty stays
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(folder: Path) -> Generator[None]:
    """Lock a folder for this process; the system releases the lock when the process ends.

    Raises:
        ValueError: another process has locked the folder.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / ".lock").open("a+") as file:
        try:
            # a lock of the process, not of the open file: workers that outlive it do not hold it
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise ValueError(
                f"process {file.read().strip() or 'unknown'} is training in {folder}: choose "
                "another folder, or wait for its end"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
