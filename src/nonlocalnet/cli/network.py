"""How every command is told a network: a file or a release, and what the file does not say."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nonlocalnet.checkpoints.download import find_weights
from nonlocalnet.checkpoints.load import load
from nonlocalnet.checkpoints.resolve import unnamed
from nonlocalnet.detection.networks import is_detector
from nonlocalnet.networks.options import parse_options
from nonlocalnet.networks.registry import Network
from nonlocalnet.runtime.log import status


def load_network(
    weights: Path,
    clip: str | None,
    options: Sequence[str],
    takes: Literal["videos", "images"] | None = None,
) -> Network:
    """Load a file, or a release by its name; say on stderr what was assumed.

    Raises:
        ValueError, FileNotFoundError: as `nl.load`; the network takes videos and not images, or the
            other way round.
    """
    path = find_weights(weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = load(path, clip=clip, **parse_options(options))
    for warning in caught:
        status.print(f"note: {warning.message}", soft_wrap=True)
    if takes is not None and is_detector(model) != (takes == "images"):
        own, other = ("videos", "predict") if takes == "images" else ("images", "detect")
        raise ValueError(f"{weights} is a network for {own}: nonlocalnet {other} is for it")
    for note in unnamed(model.info):
        status.print(f"note: {note}", soft_wrap=True)
    return model
