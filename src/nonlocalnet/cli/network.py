"""Options that name a network, and how commands load it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nonlocalnet.checkpoints.zoo import list_releases
from nonlocalnet.clips import ClipSpec
from nonlocalnet.networks.options import parse_options
from nonlocalnet.options import Takes, setting

if TYPE_CHECKING:
    import torch

    from nonlocalnet.checkpoints.metadata import WeightsInfo
    from nonlocalnet.networks.registry import Network


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options of all commands that load one network."""

    weights: Path
    """Weights: a file in any known format, such as model.safetensors from `nonlocalnet train`, or
    the name of a release (`nonlocalnet zoo`), which is downloaded."""
    set: tuple[str, ...] = setting((), parse=parse_options)
    """NAME=VALUE: network arguments that the weights do not contain."""
    device: str = "auto"
    """cpu, cuda, ...; auto uses a GPU if there is one."""


@dataclass(frozen=True, kw_only=True)
class VideoNetworkOptions(NetworkOptions):
    """Options of all commands that load one network for videos."""

    clip: str | None = setting(None, parse=ClipSpec.parse)
    """FRAMESxRATE, if the weights do not contain it."""


def check_weights(weights: Path) -> None:
    """Check that weights are a file or a release, without reading or downloading anything.

    Raises:
        FileNotFoundError: they are neither.
    """
    names = [release.name for release in list_releases()]
    if weights.is_file() or str(weights) in names:
        return
    best = weights / "best.safetensors"
    near = difflib.get_close_matches(str(weights), names, n=1)
    hint = ", and no release has that name (nonlocalnet zoo)"
    hint += f"; did you mean {near[0]}?" if near else ""
    if best.is_file():
        hint = f": it is a run, its weights are {best}"
    raise FileNotFoundError(f"no weights file at {weights}{hint}")


def load_network(
    weights: Path,
    clip: str | None,
    options: Sequence[str],
    device: str | torch.device = "auto",
    *,
    takes: Takes | None = None,
    compares: bool = False,
) -> Network:
    """Load a file or a release to a device; print on stderr what was assumed.

    Args:
        weights: the file or the release.
        clip, options: of the network.
        device: where to.
        takes: what the network must take.
        compares: whether a network without classifier will do, made of an image classifier.

    Raises:
        ValueError, FileNotFoundError: as `nl.load`; or the network takes something else.
    """
    import warnings

    from nonlocalnet.checkpoints.load import is_image_classifier, load
    from nonlocalnet.checkpoints.zoo import find_weights
    from nonlocalnet.networks.registry import family_of
    from nonlocalnet.runtime.device import pick_device
    from nonlocalnet.runtime.log import status

    check_weights(weights)
    if weights.suffix == ".onnx":
        if compares or takes == "images":
            raise ValueError(
                f"{weights} is an exported network of videos, which predict, watch and test take; "
                "here, name the weights that it is from"
            )
        return _load_onnx(weights, clip, options)
    path = weights if weights.is_file() else find_weights(weights)
    given = parse_options(options)
    if compares and is_image_classifier(path):
        given = {"num_classes": 0, **given}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = load(path, clip=clip, **given)
    for warning in caught:
        status.print(f"note: {warning.message}", soft_wrap=True)
    family = family_of(model)
    own = family.takes
    if takes is not None and own != takes:
        other = {"videos": "predict", "images": "detect"}[own]
        raise ValueError(f"{weights} is a network for {own}: use nonlocalnet {other}")
    for note in ask_for_classes(model.info):
        status.print(f"note: {note}", soft_wrap=True)
    model.to(pick_device(device) if isinstance(device, str) else device)
    if own == "videos":
        family.load("memory_format")(model)
    return model


def _load_onnx(weights: Path, clip: str | None, options: Sequence[str]) -> Network:
    """Load a file of `nonlocalnet export`."""
    from nonlocalnet.deployment.onnx_network import OnnxNetwork

    if clip is not None or options:
        raise ValueError(
            f"{weights} is a fixed program: give --clip and --set to nonlocalnet export"
        )
    return OnnxNetwork(weights)


def ask_for_classes(info: WeightsInfo) -> list[str]:
    """Tell how to name the classes of a file from another code base that does not name them."""
    if info.classes or "origin" not in info.facts or info.config.get("num_classes") == 0:
        return []
    return [
        "the file does not name its classes, so they are numbers: name them with "
        "--set classes=FILE, one a line"
    ]
