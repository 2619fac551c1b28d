"""Write the statistics of a scene as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from nonlocalnet.inspection.scene import Scene
from nonlocalnet.runtime.atomic import write_atomically


def write(scene: Scene, path: Path) -> None:
    """Write `Scene.statistics` to a .json file."""
    text = json.dumps(scene.statistics(), indent=2) + "\n"
    write_atomically(path, lambda file: file.write_text(text))
