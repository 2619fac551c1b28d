"""Write files atomically: a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file next to `path`, then rename it to `path`.

    Args:
        path: the file; its folder is created if necessary.
        write: writes the file whose path it is given.

    Raises:
        OSError: the file cannot be written; the old file is unchanged.
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
    except ValueError:  # wrong content, not a fault of the disk
        raise
    except Exception as error:  # errors of torch and safetensors do not tell that a disk is full
        free = shutil.disk_usage(path.parent).free // MIB
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(
            f"{path} could not be written ({reason}; {free} MiB are free on its disk); "
            "the old file, if any, is unchanged"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of `write_atomically` that a killed process left in a folder tree."""
    for suffix in ("pt", "safetensors", "json", "txt", "png"):
        for path in folder.rglob(f".*.{suffix}.????????"):
            path.unlink(missing_ok=True)
