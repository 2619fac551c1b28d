"""How every command is told a network: a file or a release, and what the file does not say."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from nonlocalnet.models.options import parse_options
from nonlocalnet.models.video_resnet import VideoResNet
from nonlocalnet.models.weights import load
from nonlocalnet.runtime.download import find_weights
from nonlocalnet.runtime.log import status


def load_network(weights: Path, clip: str | None, options: Sequence[str]) -> VideoResNet:
    """Load a file, or a release by its name; say on stderr what was assumed.

    Raises:
        ValueError, FileNotFoundError: as `nl.load`.
    """
    path = find_weights(weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = load(path, clip=clip, **parse_options(options))
    for warning in caught:
        status.print(f"note: {warning.message}", soft_wrap=True)
    return model
