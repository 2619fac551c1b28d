"""How every command is told a network: a file or a release, and what the file does not say."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE pairs; a VALUE is JSON, or else a word.

    >>> parse_options(["pairwise=dot_product", "scale=null", "subsample=[1, 2, 2]"])
    {'pairwise': 'dot_product', 'scale': None, 'subsample': [1, 2, 2]}
    """
    result = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise ValueError(
                f"an option is NAME=VALUE, such as pairwise=dot_product; got {option!r}"
            )
        try:
            result[name] = json.loads(value)
        except json.JSONDecodeError:
            result[name] = value
    return result
