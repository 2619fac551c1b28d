"""Send the numbers of a run to other tools while it trains."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from nonlocalnet.errors import option
from nonlocalnet.training.config import TrainConfig, parse_tracker

Tracker = Callable[[dict[str, Any]], None]


def start_trackers(config: TrainConfig) -> list[Tracker]:
    """Start what `tensorboard` and `tracker` ask for.

    Returns:
        Functions that take each line of metrics.jsonl, {"kind": "train", "iteration": 20, ...}. One
        that has a method `close` is closed at the end of the run.

    Raises:
        ValueError: a package, module or function is missing, or the function raised.
    """
    found: list[Tracker] = [TensorBoard(config.out / "tensorboard")] if config.tensorboard else []
    if config.tracker is not None:
        start = find_function(config.tracker)
        try:
            found.append(start(config))
        except Exception as error:  # whatever a tool or its server does
            reason = f"{type(error).__name__}: {str(error).strip()}"
            raise ValueError(f"{option('tracker', config.tracker)}: {reason}") from error
    return found


def find_function(name: str) -> Callable[[TrainConfig], Tracker]:
    """Import FUNCTION of "MODULE:FUNCTION" or "FILE.py:FUNCTION".

    Raises:
        ValueError: there is no such module, file or function.
    """
    place, function = parse_tracker(name)
    where = option("tracker", name)
    try:
        is_file = place.endswith(".py")
        module = _import_file(Path(place)) if is_file else importlib.import_module(place)
    except (ImportError, OSError) as error:
        raise ValueError(f"{where}: {place} cannot be imported: {error}") from error
    if not callable(getattr(module, function, None)):
        raise ValueError(f"{where}: {place} has no function {function!r}")
    return getattr(module, function)


def _import_file(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None, "a .py file"
    assert spec.loader is not None, "a .py file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TensorBoard:
    """Write numbers to TensorBoard's event files; needs the extra "tensorboard".

    Raises:
        ValueError: the package is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise ValueError(
                "TensorBoard's files need a package: pip install 'nonlocalnet[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(folder))

    def __call__(self, line: dict[str, Any]) -> None:
        for key, value in line.items():
            if isinstance(value, (int, float)) and key != "iteration":
                self._writer.add_scalar(f"{line['kind']}/{key}", value, line.get("iteration"))

    def close(self) -> None:
        """Flush the files."""
        self._writer.close()
