"""Save a scene: the ending of the file selects the writer."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nonlocalnet.errors import check_choice

if TYPE_CHECKING:  # this table is read before torch is imported
    from nonlocalnet.inspection.scene import Scene

# ending -> module with `write(scene, path, **options)`, imported on first use
WRITERS = {
    ".html": ".html_page",
    ".png": ".figure",
    ".mp4": ".film",
    ".json": ".json_file",
}


def save(scene: Scene, path: Path, **options: Any) -> Path:
    """Write a scene to a file: see `Look.save`."""
    check_path(scene, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    import_module(WRITERS[path.suffix.lower()], __package__).write(scene, path, **options)
    return path


def check_path(scene: Scene, path: Path) -> None:
    """Raise a ValueError if a scene cannot be written to a file with this ending."""
    check_choice("ending of the file", path.suffix.lower(), WRITERS)
    if path.suffix.lower() == ".mp4" and len(scene.analysis.size) < 3:
        raise ValueError(f"{path}: only a video makes a film; write .html, .png or .json instead")
