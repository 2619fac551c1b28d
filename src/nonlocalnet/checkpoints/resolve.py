"""Which network a weights file is for, and what its input is; what it does not say is asked for."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Generator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from nonlocalnet.checkpoints import checksum
from nonlocalnet.checkpoints.converted import Converted
from nonlocalnet.checkpoints.detect_format import convert
from nonlocalnet.checkpoints.fields import check_fields, check_pixels
from nonlocalnet.checkpoints.files import Checkpoint, read_checkpoint
from nonlocalnet.checkpoints.formats import caffe2, mmaction2, pytorchvideo
from nonlocalnet.checkpoints.metadata import WeightsInfo, coco_classes, kinetics_classes
from nonlocalnet.checkpoints.report import BLOCK_CONVENTIONS, CONVENTIONS, LoadReport
from nonlocalnet.checkpoints.wrappers import unwrap
from nonlocalnet.checkpoints.zoo import Release, list_releases, release_of
from nonlocalnet.detection.networks import BACKBONES, DETECTORS
from nonlocalnet.errors import FileError, printable, shown
from nonlocalnet.networks.registry import DEFAULTS, Network, create_model, describe, resolve
from nonlocalnet.networks.video_resnet import EXPANSION
from nonlocalnet.ops.pairwise import SOFTMAX_FORMS

KEY = "nonlocalnet"  # of the JSON in the file's metadata
ORIGIN = "nonlocalnet"
KINETICS = 400
INPUT = ("classes", "multi_label", "mean", "std")  # of `WeightsInfo`: what may be told as well
# The origin that the files of a project's releases have.
ORIGINS = {
    "video-nonlocal-net": caffe2.ORIGIN,
    "PySlowFast": caffe2.ORIGIN,
    "PyTorchVideo": pytorchvideo.ORIGIN,
    "MMAction2": mmaction2.ORIGIN,
}


def describe_file(
    checkpoint: Checkpoint, converted: Converted, *, clip: str | None = None, **options: Any
) -> WeightsInfo:
    """Say which network a file is for, with which input; what it does not say must be given.

    A file that has the name of a release (`nonlocalnet zoo`) is taken for that release.

    Args:
        options: arguments of the network, and of `INPUT`.

    Raises:
        ValueError: it does not say all, and what to pass; an image classifier; an option that
            contradicts what it says of its input.
    """
    given = {name: options.pop(name) for name in INPUT if name in options}
    info = _describe(checkpoint, converted, clip=clip, given=given, **options)
    _check_input(info, 1 if clip else None)
    try:
        told = replace(info, **given)
    except TypeError as error:
        raise ValueError(str(error)) from None
    open_to = {*converted.derived, *(() if info.classes else ("classes",))}
    for name in {*given} - open_to:
        if getattr(told, name) != (said := getattr(info, name)):
            raise ValueError(f"the file says {name}={shown(said)}, which no option changes")
    count = info.config.get("num_classes")
    if "classes" in given and len(told.classes) != count:
        raise ValueError(f"there are {len(told.classes):,} names for {count} classes")
    return told


def _check_input(info: WeightsInfo, frames: int | None) -> None:
    """Bound the clip and the pixels that a file asks for; frames that were told are not its own."""
    config = info.config
    if frames is None:
        first = str(config.get("clip", "1x1")).partition("x")[0]
        frames = int(first) if first.isdecimal() else 1  # another clip is refused as it is used
    size = config.get("min_size", 1)
    sides = [info.short_side, config.get("crop", 1), config.get("max_size", 1)]
    check_pixels(frames, max(*sides, *(size if isinstance(size, (list, tuple)) else [size])))


def _describe(
    checkpoint: Checkpoint,
    converted: Converted,
    *,
    clip: str | None,
    given: Mapping[str, Any],
    **options: Any,
) -> WeightsInfo:
    path = checkpoint.path
    if converted.origin == ORIGIN and KEY not in checkpoint.meta:
        raise ValueError(
            f"{path}: it has our names and no description of its network; build that with "
            "create_model and fill it with load_weights"
        )
    if converted.origin == ORIGIN:
        info = own_info(checkpoint)
        info.config |= options | ({} if clip is None else {"clip": clip})
        check_fields(info.config)
        return info
    if converted.detector is not None:
        return _describe_detector(path, converted, clip=clip, **options)
    if converted.flat:
        raise ValueError(
            f"{path}: it is an image classifier; start a video network from it with "
            "load_weights(model, file, new_classifier=True) or `nonlocalnet train --init`"
        )
    release = _release(path, converted)
    if release is not None:
        options = {**release.options, **options}
        clip = clip or converted.clip or release.clip
    clip = clip or converted.clip
    known_by_name = {**given, **options, "clip": clip}
    missing = [f"{k}={v}" for k, v in converted.asked.items() if known_by_name.get(k) is None]
    if missing:
        named = release_of(path)
        other = f" (its name is that of {named.name}, its network is another)" if named else ""
        raise ValueError(
            f"{path}: the file does not say all of its network{other}; pass {' and '.join(missing)}"
        )
    facts: dict[str, Any] = {"origin": converted.origin, "file": path.name}
    if release is not None:
        facts["release"] = release.name
    else:
        assumed = {name: why for name, (_, why) in converted.assumed.items()} | converted.derived
        if options.get("pairwise") not in (None, *SOFTMAX_FORMS):
            assumed.pop("scale", None)  # of an exponent
        if unsaid := {k: why for k, why in assumed.items() if k not in known_by_name}:
            facts["assumed"] = unsaid
    crop = options.pop("crop", converted.crop)
    known = _fields(converted)
    if options.get("norm") == "frozen" and known["norm"] == "batch":
        known["block_norm"] = None  # folded, blocks' norms into W_z
    config = describe({**known, **options}, clip=str(clip), crop=crop)
    return WeightsInfo(
        config=config,
        classes=classes_of(path, converted),
        multi_label=converted.multi_label,
        short_side=converted.short_side,
        mean=converted.mean,
        std=converted.std,
        facts=facts,
    )


def _describe_detector(
    path: Path, converted: Converted, *, clip: str | None, **options: Any
) -> WeightsInfo:
    """Find the row of the table that a detector of torchvision is."""
    found = dict(converted.detector or {})
    rows = [
        name
        for name, row in DETECTORS.items()
        if row.kind == found["kind"]
        and (BACKBONES[row.backbone].depths, BACKBONES[row.backbone].groups)
        == (found["depths"], found["groups"])
        and not row.backbone_blocks + row.head_blocks
    ]
    if len(rows) != 1:
        raise ValueError(
            f"{path}: a {found['kind']} R-CNN with {found['depths']} residual blocks in its "
            "backbone is not in the table (nonlocalnet models '*rcnn*')"
        )
    if clip is not None:
        raise ValueError(f"{path}: it is a detector, which has no clip")
    config: dict[str, Any] = {"name": rows[0], "num_classes": found["num_classes"]}
    config |= {name: value for name, (value, _) in converted.assumed.items()} | options
    assumed = {name: why for name, (_, why) in converted.assumed.items() if name not in options}
    release = release_of(path)
    if release is not None and release.model == rows[0]:
        assumed = {}  # the release says it: COCO_V1
    return WeightsInfo(
        config=config,
        classes=classes_of(path, converted),
        short_side=config.get("min_size", 800),
        mean=converted.mean,
        std=converted.std,
        facts={"origin": converted.origin, "file": path.name, "assumed": assumed},
    )


def classes_of(path: Path, converted: Converted) -> list[str]:
    """Name a foreign file's classes, as it or its release says; their number alone says nothing."""
    detector = converted.detector
    count = (detector or converted.fields).get("num_classes")
    if converted.classes and len(converted.classes) == count:
        return converted.classes
    if detector is None and not converted.flat:
        release = _release(path, converted)
        dataset = converted.dataset if release is None else release.dataset
        return kinetics_classes() if (dataset, count) == ("Kinetics-400", KINETICS) else []
    release = release_of(path)
    of_coco = detector is not None and release is not None and "coco" in release.dataset.lower()
    return coco_classes(int(count or 0)) if of_coco else []


def unnamed(info: WeightsInfo) -> list[str]:
    """Tell a command's user how to name another code base's classes that have no names."""
    note = "the file does not name its classes, they are numbers: --set classes=FILE names them"
    return [f"{note}, one a line"] if "origin" in info.facts and not info.classes else []


def _fields(converted: Converted) -> dict[str, Any]:
    return {**converted.fields, **{name: value for name, (value, _) in converted.assumed.items()}}


def _release(path: Path, converted: Converted) -> Release | None:
    """The release that a file is by its name, if its layout and its network are the release's."""
    release = release_of(path)
    if release is None or release.clip is None or ORIGINS[release.project] != converted.origin:
        return None
    found = describe({**_fields(converted), **release.options}, clip=release.clip, crop=224)
    return release if found["name"] == release.model else None


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of `VideoResNet` that a `config` stands for."""
    own = {key: value for key, value in config.items() if key != "num_classes"}
    return DEFAULTS | resolve(own.pop("name", None), **own)


def open_weights(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint; where there is none of the name of a release, say how to get it.

    A file that has a checksum (ours do) must have the bytes that it was made of.
    """
    try:
        checkpoint = read_checkpoint(path)
        with in_one_sentence(path):
            signed = checksum.check(path)
            if KEY in checkpoint.meta and not signed and checksum.is_named(checkpoint.meta):
                raise ValueError("it is damaged: its checksum cannot be read")
        return checkpoint
    except FileNotFoundError as error:
        if os.fspath(path) in {release.name for release in list_releases()}:
            hint = f"it is a release: `nonlocalnet zoo get {path}` gets it and prints its path"
            raise FileNotFoundError(f"{error}; {hint}") from None
        raise


def in_our_terms(checkpoint: Checkpoint) -> Converted:
    """Convert a foreign checkpoint; ours has our terms already."""
    bare, wrapping = unwrap(checkpoint)
    if KEY not in checkpoint.meta and not _ours(bare.entries):
        with in_one_sentence(checkpoint.path):
            return convert(checkpoint)
    result = Converted(ORIGIN, dict(bare.entries), {name: name for name in bare.entries})
    result.unknown += bare.others
    result = wrapping.tell(result)
    if KEY in checkpoint.meta:
        with in_one_sentence(checkpoint.path):
            config = own_info(checkpoint).config
            check_fields(config)
            if config.get("name") in DETECTORS:
                return result
            arguments = resolved(config)
        result.fields = {name: arguments[name] for name in CONVENTIONS + BLOCK_CONVENTIONS}
    return result


def _ours(names: Mapping[str, Any]) -> bool:
    return any(name.startswith("res2.block0.") for name in names)


def own_info(checkpoint: Checkpoint) -> WeightsInfo:
    """Read the description in a file of ours."""
    known = {item.name for item in fields(WeightsInfo)}
    try:
        info = json.loads(checkpoint.meta[KEY], object_pairs_hook=_once)
        if not isinstance(info["config"], dict):
            raise TypeError("config is no table")
        if unknown := set(info) - known:
            raise TypeError(f"unknown {shown(sorted(unknown))}: written by a later version?")
        result = WeightsInfo(**info)
        count = result.config.get("num_classes")
        if type(count) is int and 0 < count < len(result.classes):
            raise TypeError(f"{len(result.classes):,} names for {count:,} classes")
        return result
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        said = printable(error, 300)
        raise ValueError(f"{checkpoint.path} has a damaged description: {said}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of JSON, in which nothing is said twice."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("it says something twice")
    return table


def assumptions(model: Network, report: LoadReport) -> list[str]:
    """Say what was assumed of a network, since its file does not tell; ours tell all."""
    if report.origin == ORIGIN:
        return []
    arguments = getattr(model, "arguments", {})
    info, by_reason = model.info, {}
    for name, why in info.facts.get("assumed", {}).items():
        value = getattr(info, name) if name in INPUT else arguments.get(name)
        if name in ("mean", "std"):
            value = tuple(round(color, 4) for color in getattr(info, name))
        said = f"{name}={info.config.get(name, value)!r}"
        by_reason.setdefault(why, []).append(said)
    notes = [
        f"{', '.join(said)} {'is' if len(said) == 1 else 'are'} assumed: {why}"
        for why, said in by_reason.items()
    ]
    notes += [
        f"{name}={model.config[name]!r} is of no network in the table; is the file whole?"
        for name in ("depths", "non_local")
        if name in model.config
    ]
    return notes


@contextlib.contextmanager
def in_one_sentence(path: str | os.PathLike[str]) -> Generator[None]:
    """Name the file, whatever is wrong with a value in its description or an option."""
    try:
        yield
    except FileError:
        raise
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise FileError(path, str(error)) from None
    except (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        said = printable(error, 200)
        raise FileError(path, f"a value of its description makes no sense: {said}") from None


def check_size(config: Mapping[str, Any], converted: Converted) -> None:
    """Refuse a description of a network that is larger than its tensors, before it is built."""
    held = sum(math.prod(shape) for shape in converted.shapes().values())
    if config.get("name") in DETECTORS:
        with torch.device("meta"):
            needed = sum(tensor.numel() for tensor in create_model(**config).state_dict().values())
        if needed > held:
            raise ValueError("its description is of a larger network than its tensors")
        return
    arguments = resolved(config) | {"num_classes": config.get("num_classes", KINETICS)}
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
