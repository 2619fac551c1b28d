"""Weights on disk: ours, which say what they are for, and those of other code bases."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nonlocalnet.checkpoints import checksum
from nonlocalnet.checkpoints.converted import Converted
from nonlocalnet.checkpoints.formats import caffe2
from nonlocalnet.checkpoints.formats import pyslowfast as slowfast
from nonlocalnet.checkpoints.formats.torchvision_rcnn import as_backbone
from nonlocalnet.checkpoints.lazy_tensor import Entry
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.report import LoadReport, check_numbers, compare, differ, fill, refuse
from nonlocalnet.checkpoints.resolve import (
    KEY,
    assumptions,
    check_size,
    classes_of,
    describe_file,
    in_one_sentence,
    in_our_terms,
    open_weights,
    own_info,
)
from nonlocalnet.clips import MEAN, STD
from nonlocalnet.detection.networks import is_detector
from nonlocalnet.errors import check_choice
from nonlocalnet.networks.registry import DEFAULTS, Network, create_model
from nonlocalnet.networks.video_resnet import VideoResNet
from nonlocalnet.ops.pairwise import SOFTMAX_FORMS


def save_weights(model: nn.Module, path: str | os.PathLike, info: WeightsInfo) -> None:
    """Write the model's parameters and buffers, with `info` and a checksum in the metadata."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    meta = {KEY: json.dumps(vars(info)), checksum.KEY: checksum.UNSIGNED}
    save_file(tensors, path, metadata=meta)
    checksum.sign(path)


Layout = Literal["caffe2", "pyslowfast"]


def export_weights(model: VideoResNet, path: str | os.PathLike, layout: Layout) -> list[str]:
    """Write a network in the layout of another code base: a pickle of Caffe2's, a .pyth.

    Reading it back gives the same numbers, bit for bit; counters of batches, which Caffe2 lacks,
    become zero.

    Returns:
        What the file cannot say, and `load` will ask for or assume.

    Raises:
        ValueError: an unknown layout; a network that the other code base cannot express.
    """
    check_choice("layout", layout, get_args(Layout))
    path = Path(path)
    if is_detector(model):
        raise ValueError(f"{model.config['name']} is a detector: {layout} has no layout for it")
    arguments, clip = model.arguments, model.config["clip"]
    state = {name: _entry(value) for name, value in model.state_dict().items()}
    if layout == "caffe2":
        blobs = caffe2.export(state)
        with path.open("wb") as file:
            caffe2.write(file, blobs)
        return [
            f"{name}={value!r}"
            for name, value in {"clip": clip, **arguments}.items()
            if name == "clip" or (name in caffe2.UNSAID and value != DEFAULTS[name])
        ]
    info = getattr(model, "info", None) or WeightsInfo(config=model.config)
    content = slowfast.export(
        arguments | {"crop": model.config["crop"]},
        state,
        clip,
        short_side=info.short_side,
        mean=info.mean,
        std=info.std,
        multi_label=info.multi_label,
    )
    content["model_state"] = {k: v.read() for k, v in content["model_state"].items()}
    torch.save(content, path)
    return []


def _entry(value: Tensor) -> Entry:
    return Entry(tuple(value.shape), value.dtype, lambda: value.detach().cpu().contiguous())


def read_info(path: str | os.PathLike) -> WeightsInfo:
    """Read what a weights file of ours says about itself.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no checkpoint, or not one of ours.
    """
    checkpoint = open_weights(path)
    if KEY not in checkpoint.meta:
        raise ValueError(
            f"{path} does not say which network it is for: it was not written by nonlocalnet"
        )
    return own_info(checkpoint)


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    new_classifier: bool = False,
    new_blocks: bool = False,
    new_parts: Sequence[str] = (),
) -> LoadReport:
    """Fill a model from a file of any known format; nothing is left or unused silently.

    Formats are told by content: ours, the official Caffe2 pickles, PySlowFast, MMAction2,
    PyTorchVideo, torchvision's Mask and Keypoint R-CNN, and 2-D ImageNet ResNets of torchvision,
    timm and Caffe2, which are inflated, or fill a detector's backbone.

    Args:
        model: the network.
        path: the file.
        new_classifier: leave what depends on the classes as it is, for others: `fc`, of a detector
            the box predictor and the last layer of the mask predictor.
        new_blocks: leave non-local blocks of which the file has nothing as they are, the identity
            at start, as when a network starts from one without them (paper, section 4.1).
        new_parts: parts of the network, such as "res5", of which the file may lack all or some;
            what it lacks is left as it is.

    Returns:
        What became of every key.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no checkpoint; keys that are missing, unknown or of another shape, each named;
            a network that pads or pools otherwise than the file's. The model is then unchanged.

    Warns:
        UserWarning: the network pads or compares otherwise than such files nearly always do.

    Source: docs/weights.md says what differs between the origins.
    """
    converted = in_our_terms(open_weights(path))
    if converted.flat and is_detector(model):
        converted = as_backbone(converted)
    report = compare(
        model, converted, new_classifier=new_classifier, new_blocks=new_blocks, new_parts=new_parts
    )
    refuse(path, report)
    own = getattr(model, "arguments", getattr(model, "config", {}))
    for name, (value, why) in converted.assumed.items():
        given = own.get(name, value)
        scaled = name != "scale" or own.get("pairwise") in SOFTMAX_FORMS
        if differ(given, value) and scaled:
            warnings.warn(f"{path}: {name}={given!r} here, {value!r} {why}", stacklevel=2)
    check_numbers(path, converted)  # all of them, before the first is taken
    fill(model, converted, report)
    return report


def load(path: str | os.PathLike, *, clip: str | None = None, **options: Any) -> Network:
    """Build the network that a weights file is for, and fill it.

    Args:
        path: a file of any known format; see `load_weights`.
        clip: "FRAMESxRATE", where the file does not say it.
        options: arguments of `create_model` that the file does not say, or to be changed; of its
            input, what the file does not say of mean, std and multi_label; `classes`, their names.

    Returns:
        The network, in evaluation mode; `.info` is the file's `WeightsInfo`, with the
        normalization and size of the input, and where it comes from.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`; or the file does not say what network it
            is for, and what to pass.

    Warns:
        UserWarning: what was assumed, since the file does not say it.
    """
    model, converted, report = examine(path, clip=clip, **options)
    for note in assumptions(model, report):
        warnings.warn(f"{path}: {note}", stacklevel=2)
    refuse(path, report)
    check_numbers(path, converted)
    fill(model, converted, report)
    return model.eval()


def examine(
    path: str | os.PathLike, *, clip: str | None = None, **options: Any
) -> tuple[Network, Converted, LoadReport]:
    """Build the network that a file is for, and tell what would become of every key.

    `refuse` and `fill` do the rest. Arguments and errors are those of `load`.
    """
    checkpoint = open_weights(path)
    converted = in_our_terms(checkpoint)
    with in_one_sentence(path):
        info = describe_file(checkpoint, converted, clip=clip, **options)
        check_size(info.config, converted)
        model = create_model(**info.config)
    model.info = info
    return model, converted, compare(model, converted)


@dataclass(frozen=True)
class Start:
    """What a file of weights fixes for a training that starts from it."""

    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    classes: list[str] = field(default_factory=list)


def read_start(path: str | os.PathLike) -> Start:
    """Read the normalization and the classes that a file's weights were trained with.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    checkpoint = open_weights(path)
    if KEY in checkpoint.meta:
        info = own_info(checkpoint)
        return Start(info.mean, info.std, info.classes)
    converted = in_our_terms(checkpoint)
    return Start(converted.mean, converted.std, classes_of(checkpoint.path, converted))
