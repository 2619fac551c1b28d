"""Atomic files: a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it over `path`.

    A reader sees the old file or the new one, whatever happens in between.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except ValueError:  # what was to be written, not where
        raise
    except Exception as error:  # torch's and safetensors' own say little of a full disk
        free = shutil.disk_usage(path.parent).free // MIB
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(
            f"{path} could not be written ({reason}; {free} MiB are free on its disk); "
            "what was there before is whole"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of `write_atomically` that a kill left at and below a folder."""
    for suffix in ("pt", "safetensors", "json", "txt", "png"):
        for path in folder.rglob(f".*.{suffix}.????????"):
            path.unlink(missing_ok=True)
