"""torchvision's video networks by name, such as `torchvision/r3d_18`, with Kinetics weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nonlocalnet.errors import option
from nonlocalnet.networks.families import VIDEO, Row

if TYPE_CHECKING:
    from torch import nn
    from torchvision.models import WeightsEnum

# name -> the clip that torchvision's weights were trained on, at 30 frames a second (`meta` of the
# weights states frames and rate)
CLIPS = {
    "r3d_18": "16x2",
    "mc3_18": "16x2",
    "r2plus1d_18": "16x2",
    "s3d": "128x2",
    "mvit_v1_b": "16x4",
    "mvit_v2_s": "16x4",
    "swin3d_t": "32x2",
    "swin3d_s": "32x2",
    "swin3d_b": "32x2",
}
FIXED = ("mvit_v1_b", "mvit_v2_s")  # position encodings of 16 x 224 x 224 alone
PREFIX = "torchvision/"

TORCHVISION = dataclasses.replace(
    VIDEO,
    name="torchvision video",
    places={
        **VIDEO.places,
        "build": ".networks.torchvision_video:build",
        "arguments": ".networks.torchvision_video:train_arguments",
        "defaults": ".networks.torchvision_video:train_defaults",
        "pretrained": ".networks.torchvision_video",
    },
    costs="the clip and crop of torchvision's weights, 400 classes",
)
ROWS = {PREFIX + name: Row(TORCHVISION, {}) for name in CLIPS}


def find_weights(name: str, weights: str = "DEFAULT") -> WeightsEnum:
    """Find weights of torchvision's by their name, such as "KINETICS400_V1".

    Raises:
        ValueError: torchvision has none of that name.
    """
    from torchvision.models import get_model_weights

    found = get_model_weights(name.removeprefix(PREFIX))
    if weights not in found.__members__:
        raise ValueError(
            f"weights must be one of {', '.join(found.__members__)} for {name}; got {weights!r}"
        )
    return found[weights]


def build(
    name: str,
    fields: Mapping[str, Any] | None = None,
    *,
    num_classes: int = 400,
    clip: str | None = None,
    crop: int | None = None,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build one of torchvision's video networks.

    Args:
        name: "torchvision/" and torchvision's name.
        fields: of the row; there are none.
        num_classes: K. The classifier of downloaded weights is kept for their 400 classes alone.
        clip: "FRAMESxRATE", by default that of torchvision's weights.
        crop: side of the crop in pixels, by default that of torchvision's weights.
        weights: the name of torchvision's weights, such as "DEFAULT"; torchvision downloads them.
            None is random weights.
        options: of torchvision's function, such as dropout.

    Returns:
        torchvision's network itself, with its own module names; `.config` builds it again.

    Raises:
        ValueError: an unknown option; a clip or a crop that the network cannot take.

    >>> network = build("torchvision/r3d_18", num_classes=5)
    >>> network.config["clip"], network.config["crop"], network.fc.out_features
    ('16x2', 112, 5)
    """
    from torchvision.models import get_model

    short = name.removeprefix(PREFIX)
    chosen = find_weights(name, weights or "DEFAULT")
    own_crop = chosen.transforms().crop_size[0]
    clip, crop = clip or CLIPS[short], crop or own_crop
    if short in FIXED and (clip.partition("x")[0] != "16" or crop != own_crop):
        raise ValueError(
            f"{name} takes clips of 16 frames of {own_crop} pixels; got clip {clip!r}, crop {crop}"
        )
    try:
        network: Any = get_model(short, weights=None, num_classes=num_classes, **options)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
    if weights is not None:
        _fill(network, chosen)
    network.config = {
        "name": name,
        "num_classes": num_classes,
        "clip": clip,
        "crop": crop,
        **options,
    }
    return network


def read_input(name: str) -> tuple[tuple[float, ...], tuple[float, ...], list[str]]:
    """Return mean, std and class names of torchvision's weights, as their `meta` states them."""
    weights = find_weights(name)
    transforms = weights.transforms()
    return tuple(transforms.mean), tuple(transforms.std), list(weights.meta["categories"])


def fill(network: nn.Module, name: str, *, new_classifier: bool = False) -> str:
    """Fill a network with torchvision's weights, which torchvision downloads; say what is new."""
    weights = find_weights(name)
    new = _fill(network, weights, new_classifier=new_classifier)
    text = f"weights from torchvision ({weights})"
    return f"{text}; new: {', '.join(new)}" if new else text


def train_defaults(name: str) -> dict[str, Any]:
    """Return the options of training that fit torchvision's weights: clip, crop and short side."""
    transforms = find_weights(name).transforms()
    side = transforms.resize_size[0]
    return {
        "clip": CLIPS[name.removeprefix(PREFIX)],
        "crop": transforms.crop_size[0],
        "short_side": (side, side * 5 // 4),
    }


def train_arguments(config: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `build` for a run: those of non-local blocks go to inserted ones.

    Raises:
        ValueError: options of blocks, and no block is inserted.
    """
    blocks = {name: options.pop(name) for name in ("pairwise", "extent") if name in options}
    if blocks and not config.insert:
        names = " and ".join(blocks)
        raise ValueError(
            f"{config.model} has no non-local block for {names}: pass {option('insert')}"
        )
    return options


def _fill(network: nn.Module, weights: WeightsEnum, *, new_classifier: bool = False) -> list[str]:
    """Take all tensors but a classifier of other classes; list what stays random."""
    own = network.state_dict()
    state = weights.get_state_dict(progress=True, check_hash=True)
    classifier = next(reversed(state)).rpartition(".")[0]  # the last layer
    kept = {key: value for key, value in state.items() if not key.startswith(f"{classifier}.")}
    new_classifier |= any(own[key].shape != state[key].shape for key in state.keys() - kept.keys())
    blocks = {key.partition(".non_local.")[0] for key in own if ".non_local." in key}
    plain = {key for key in own if ".non_local." not in key}
    if plain != state.keys() or any(value.shape != own[key].shape for key, value in kept.items()):
        raise ValueError(
            f"{weights} does not fit torchvision's own network: is it another version?"
        )
    network.load_state_dict(kept if new_classifier else state, strict=False)
    new = [classifier] if new_classifier else []
    return [*new, *(f"a block after {place}" for place in sorted(blocks))]
