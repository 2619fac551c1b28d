"""Weights on disk: ours, which say what they are for, and those of other code bases."""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nonlocalnet.convert import caffe2, mmaction2, pytorchvideo, slowfast
from nonlocalnet.convert.converted import Converted
from nonlocalnet.convert.entry import Entry
from nonlocalnet.convert.files import Checkpoint, read_checkpoint
from nonlocalnet.convert.sources import convert
from nonlocalnet.errors import check_choice
from nonlocalnet.models.info import WeightsInfo, kinetics_classes
from nonlocalnet.models.registry import DEFAULTS, create_model, describe, resolve
from nonlocalnet.models.report import (
    BLOCK_CONVENTIONS,
    CONVENTIONS,
    LoadReport,
    check_numbers,
    compare,
    fill,
    refuse,
)
from nonlocalnet.models.video_resnet import EXPANSION, VideoResNet
from nonlocalnet.models.zoo import Release, list_releases, release_of

KEY = "nonlocalnet"  # of the JSON in the file's metadata
ORIGIN = "nonlocalnet"
KINETICS = 400
# The layout that a project's releases have.
LAYOUTS = {
    "video-nonlocal-net": caffe2.ORIGIN,
    "PySlowFast": caffe2.ORIGIN,
    "PyTorchVideo": pytorchvideo.ORIGIN,
    "MMAction2": mmaction2.ORIGIN,
}


def save_weights(model: nn.Module, path: str | os.PathLike, info: WeightsInfo) -> None:
    """Write the model's parameters and buffers, with `info` in the file's metadata."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, path, metadata={KEY: json.dumps(vars(info))})


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
    checkpoint = _open(path)
    if KEY not in checkpoint.meta:
        raise ValueError(
            f"{path} does not say which network it is for: it was not written by nonlocalnet"
        )
    return _own_info(checkpoint)


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    new_classifier: bool = False,
    new_blocks: bool = False,
) -> LoadReport:
    """Fill a model from a file of any known format; nothing is left or unused silently.

    Formats are told by content: ours, the official Caffe2 pickles, PySlowFast, MMAction2,
    PyTorchVideo, and 2-D ImageNet ResNets of torchvision, timm and Caffe2, which are inflated.

    Args:
        model: the network.
        path: the file.
        new_classifier: leave `fc` as it is, for other classes.
        new_blocks: leave non-local blocks of which the file has nothing as they are, the identity
            at start, as when a network starts from one without them (paper, section 4.1).

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
    converted = _converted(_open(path))
    report = compare(model, converted, new_classifier=new_classifier, new_blocks=new_blocks)
    refuse(path, report)
    for name, (value, why) in converted.assumed.items():
        given = getattr(model, "arguments", {}).get(name, value)
        if given != value:
            warnings.warn(f"{path}: {name}={given!r} here, {value!r} {why}", stacklevel=2)
    check_numbers(path, converted)  # all of them, before the first is taken
    fill(model, converted, report)
    return report


def load(path: str | os.PathLike, *, clip: str | None = None, **options: Any) -> VideoResNet:
    """Build the network that a weights file is for, and fill it.

    Args:
        path: a file of any known format; see `load_weights`.
        clip: "FRAMESxRATE", where the file does not say it.
        options: arguments of `create_model` that the file does not say, or to be changed.

    Returns:
        The network, in evaluation mode; `.info` is the file's `WeightsInfo`, with the
        normalisation and size of the input, and where it comes from.

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
) -> tuple[VideoResNet, Converted, LoadReport]:
    """Build the network that a file is for, and tell what would become of every key.

    `refuse` and `fill` do the rest. Arguments and errors are those of `load`.
    """
    checkpoint = _open(path)
    converted = _converted(checkpoint)
    with _in_one_sentence(path):
        info = describe_file(checkpoint, converted, clip=clip, **options)
        _check_size(info.config, converted)
        model = create_model(**info.config)
    model.info = info
    return model, converted, compare(model, converted)


@contextlib.contextmanager
def _in_one_sentence(path: str | os.PathLike) -> Generator[None]:
    """Name the file, whatever is wrong with a value in its description or an option."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}") from None
    except (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ValueError(
            f"{path}: a value of its description makes no sense: {str(error)[:200]}"
        ) from None


def _check_size(config: Mapping[str, Any], converted: Converted) -> None:
    """Refuse a description of a network that is larger than its tensors, before it is built."""
    arguments = resolved(config) | {"num_classes": config.get("num_classes", KINETICS)}
    held = sum(math.prod(shape) for shape in converted.shapes().values())
    if sum(arguments["depths"]) > len(converted.tensors) or weights_of(arguments) > held:
        raise ValueError("its description is of a larger network than its tensors")


def weights_of(arguments: Mapping[str, Any]) -> int:
    """Count the weights of a network's residual convolutions and classifier, without building it.

    Raises:
        ValueError: sizes that are no sizes.
    """
    depths, widths = arguments["depths"], arguments["widths"]
    kernels = [arguments[f"kernels_{x}"] or [[1] * depth for depth in depths] for x in "ab"]
    time, space = arguments["conv1_kernel"]
    channels = arguments["conv1_channels"]
    numbers = [*depths, *widths, time, space, channels, arguments["num_classes"]]
    numbers += [kernel for stages in kernels for stage in stages for kernel in stage]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise ValueError("its description has sizes that are none")
    total = 3 * channels * time * space**2
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for i in range(depth):
            a, b = (stages[stage][i] for stages in kernels)
            total += width * (channels * a + 9 * width * b + EXPANSION * width)
            channels = EXPANSION * width
    return total + channels * arguments["num_classes"]


def assumptions(model: VideoResNet, report: LoadReport) -> list[str]:
    """Say what was assumed of a network, since its file does not tell; ours tell all."""
    if report.origin == ORIGIN:
        return []
    notes = [
        f"{name}={model.arguments[name]!r} is assumed: {why}"
        for name, why in model.info.facts.get("assumed", {}).items()
    ]
    notes += [
        f"{name}={model.config[name]!r} is of no network in the table; is the file whole?"
        for name in ("depths", "non_local")
        if name in model.config
    ]
    return notes


def describe_file(
    checkpoint: Checkpoint, converted: Converted, *, clip: str | None = None, **options: Any
) -> WeightsInfo:
    """Say which network a file is for, with which input; what it does not say must be given.

    A file that has the name of a release (`nonlocalnet zoo`) is taken for that release.

    Raises:
        ValueError: it does not say all, and what to pass; an image classifier.
    """
    path = checkpoint.path
    if converted.origin == ORIGIN:
        info = _own_info(checkpoint)
        info.config |= options | ({} if clip is None else {"clip": clip})
        return info
    if converted.flat:
        raise ValueError(
            f"{path}: it is an image classifier; start a video network from it with "
            "load_weights(model, file, new_classifier=True) or `nonlocalnet train --init`"
        )
    release = _release(path, converted)
    if release is not None:
        options = {**release.options, **options}
        clip = clip or converted.clip or release.clip
    given = {**options, "clip": clip or converted.clip}
    missing = [f"{k}={v}" for k, v in converted.asked.items() if given.get(k) is None]
    if missing:
        named = release_of(path)
        other = f" (its name is that of {named.name}, its network is another)" if named else ""
        raise ValueError(
            f"{path}: the file does not say all of its network{other}; pass {' and '.join(missing)}"
        )
    facts: dict[str, Any] = {"origin": converted.origin, "file": path.name}
    if release is not None:
        facts["release"] = release.name
    elif assumed := {k: why for k, (_, why) in converted.assumed.items() if k not in given}:
        facts["assumed"] = assumed
    crop = options.pop("crop", converted.crop)
    fields = _fields(converted)
    if options.get("norm") == "frozen" and fields["norm"] == "batch":
        fields["block_norm"] = None  # folded, blocks' norms into W_z
    config = describe({**fields, **options}, clip=str(given["clip"]), crop=crop)
    return WeightsInfo(
        config=config,
        classes=kinetics_classes() if config["num_classes"] == KINETICS else [],
        multi_label=converted.multi_label,
        short_side=converted.short_side,
        mean=converted.mean,
        std=converted.std,
        facts=facts,
    )


def _fields(converted: Converted) -> dict[str, Any]:
    return {**converted.fields, **{name: value for name, (value, _) in converted.assumed.items()}}


def _release(path: Path, converted: Converted) -> Release | None:
    """The release that a file is by its name, if its layout and its network are the release's."""
    release = release_of(path)
    if release is None or release.clip is None or LAYOUTS[release.project] != converted.origin:
        return None
    found = describe({**_fields(converted), **release.options}, clip=release.clip, crop=224)
    return release if found["name"] == release.model else None


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of `VideoResNet` that a `config` stands for."""
    own = {key: value for key, value in config.items() if key != "num_classes"}
    return DEFAULTS | resolve(own.pop("name", None), **own)


def _open(path: str | os.PathLike) -> Checkpoint:
    try:
        return read_checkpoint(path)
    except FileNotFoundError as error:
        if os.fspath(path) in {release.name for release in list_releases()}:
            hint = f"it is a release: `nonlocalnet zoo get {path}` gets it and prints its path"
            raise FileNotFoundError(f"{error}; {hint}") from None
        raise


def _converted(checkpoint: Checkpoint) -> Converted:
    if KEY not in checkpoint.meta and not _ours(checkpoint.entries):
        with _in_one_sentence(checkpoint.path):
            return convert(checkpoint)
    result = Converted(
        ORIGIN, dict(checkpoint.entries), {name: name for name in checkpoint.entries}
    )
    if KEY in checkpoint.meta:
        with _in_one_sentence(checkpoint.path):
            arguments = resolved(_own_info(checkpoint).config)
        result.fields = {name: arguments[name] for name in CONVENTIONS + BLOCK_CONVENTIONS}
    return result


def _ours(names: Mapping[str, Any]) -> bool:
    return any(name.startswith("res2.block0.") for name in names)


def _own_info(checkpoint: Checkpoint) -> WeightsInfo:
    known = {item.name for item in fields(WeightsInfo)}
    try:
        info = json.loads(checkpoint.meta[KEY])
        if not isinstance(info["config"], dict):
            raise TypeError("config is no table")
        if unknown := set(info) - known:
            raise TypeError(f"unknown {sorted(unknown)}: written by a later version?")
        return WeightsInfo(**info)
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{checkpoint.path} has a damaged description: {error}") from None


@dataclass(frozen=True)
class Start:
    """What a file of weights fixes for a training that starts from it."""

    mean: tuple[float, ...] = (0.45,) * 3
    std: tuple[float, ...] = (0.225,) * 3
    classes: list[str] = field(default_factory=list)


def read_start(path: str | os.PathLike) -> Start:
    """Read the normalisation and the classes that a file's weights were trained with.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    checkpoint = _open(path)
    if KEY in checkpoint.meta:
        info = _own_info(checkpoint)
        return Start(info.mean, info.std, info.classes)
    converted = _converted(checkpoint)
    of_kinetics = not converted.flat and converted.fields.get("num_classes") == KINETICS
    return Start(converted.mean, converted.std, kinetics_classes() if of_kinetics else [])
