"""Weights on disk: safetensors that carry what builds their network and what they were for."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from nonlocalnet.models.registry import create_model
from nonlocalnet.models.video_resnet import VideoResNet

KEY = "nonlocalnet"  # of the JSON in the file's metadata


@dataclass
class WeightsInfo:
    """What a weights file says about itself.

    Attributes:
        config: arguments of `create_model`.
        classes: names in label order; empty if none were given.
        multi_label: whether a video has many labels (sigmoid) or one (softmax).
        short_side: pixels; test frames are scaled to it, and the test crop is that wide.
        facts: anything else, such as iterations and scores measured.
    """

    config: dict[str, Any]
    classes: list[str] = field(default_factory=list)
    multi_label: bool = False
    short_side: int = 256
    facts: dict[str, Any] = field(default_factory=dict)

    def class_name(self, label: int) -> str:
        """Name a label; its number where no names are known."""
        return self.classes[label] if label < len(self.classes) else str(label)


@dataclass
class LoadReport:
    """Keys loaded, keys of the model left as they were, keys of the file not used."""

    loaded: list[str]
    left: list[str]
    unused: list[str]

    def __str__(self) -> str:
        return f"{len(self.loaded)} loaded, {len(self.left)} left, {len(self.unused)} unused"


def save_weights(model: nn.Module, path: str | os.PathLike, info: WeightsInfo) -> None:
    """Write the model's parameters and buffers, with `info` in the file's metadata."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, path, metadata={KEY: json.dumps(vars(info))})


def read_info(path: str | os.PathLike) -> WeightsInfo:
    """Read what a weights file says about itself.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a safetensors file, or not one of ours.
    """
    with _open(path) as file:
        text = (file.metadata() or {}).get(KEY)
    if text is None:
        raise ValueError(
            f"{path} does not say which network it is for: it was not written by nonlocalnet"
        )
    try:
        return WeightsInfo(**json.loads(text))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} has a damaged description: {error}") from None


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    new_classifier: bool = False,
    new_blocks: bool = False,
) -> LoadReport:
    """Fill a model from a file; nothing is left or unused silently.

    Args:
        model: the network.
        path: a safetensors file with the model's names.
        new_classifier: leave `fc` as it is, for other classes.
        new_blocks: leave non-local blocks that the file lacks as they are, the identity at start,
            as when a network starts from one without them (paper, section 4.1).

    Returns:
        The keys loaded, left and unused.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a safetensors file; keys that are missing, unknown or of another shape,
            each named. The model is then unchanged.
    """
    with _open(path) as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    target = model.state_dict()
    left = [key for key in target if new_classifier and key.startswith("fc.")]
    left += [key for key in target if new_blocks and ".non_local" in key and key not in state]
    unused = [key for key in left if key in state]
    wrong = [f"{key} is not in the file" for key in target if key not in state and key not in left]
    wrong += [f"{key} is not in the network" for key in state if key not in target]
    wrong += [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} in the network"
        for key, value in target.items()
        if key in state and key not in left and state[key].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{path} does not fit the network: {'; '.join(wrong[:5])}{more}")
    loaded = [key for key in target if key not in left]
    model.load_state_dict({key: state[key] for key in loaded}, strict=False)
    return LoadReport(loaded, left, unused)


def load(path: str | os.PathLike) -> VideoResNet:
    """Build the network that a weights file is for, and fill it.

    Returns:
        The network, in evaluation mode; `.info` is the file's `WeightsInfo`.

    Raises:
        FileNotFoundError, ValueError: as `read_info` and `load_weights`.
    """
    info = read_info(path)
    model = create_model(**info.config)
    load_weights(model, path)
    model.info = info
    return model.eval()


def read_classes(path: str | os.PathLike) -> list[str]:
    """Read class names, one a line, in label order.

    Raises:
        ValueError: the file is empty.
    """
    names = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path} has no class names; write one a line, in label order")
    return names


def _open(path: str | os.PathLike):
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
