"""Load weights: read the file, translate it, resolve its network, build it, fill it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from nonlocalnet.checkpoints.files import KEY, read_checkpoint
from nonlocalnet.checkpoints.formats.native import read_description
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.report import LoadReport, check, compare, differ, fill
from nonlocalnet.checkpoints.resolve import name_classes, resolve_network
from nonlocalnet.checkpoints.translate import Translated, translate
from nonlocalnet.clips import MEAN, STD
from nonlocalnet.errors import errors_about
from nonlocalnet.networks.registry import Network, create_model, family_of
from nonlocalnet.ops.pairwise import SOFTMAX_FORMS
from nonlocalnet.runtime.device import meta_device


def load(path: str | os.PathLike, *, clip: str | None = None, **options: Any) -> Network:
    """Build the network that a weights file is for, and fill it.

    Args:
        path: a file of any known format; see `load_weights`.
        clip: "FRAMESxRATE", if the file does not say it.
        options: arguments of `create_model` that the file does not say or that are to be changed;
            mean, std and multi_label of the input, if the file does not say them; `classes`, their
            names; `release`, the name of the release that it is, if its own name does not say it.
            An image classifier needs num_classes=0: the network then compares positions by its
            features (`checkpoints.features`), and predicts nothing.

    Returns:
        The network, in evaluation mode. Its `.info` is the `WeightsInfo` of the file: where it
        comes from, and the normalization and size of the input.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`; or the file does not say which network it
            is for, with the arguments to pass.

    Warns:
        UserWarning: something was assumed because the file does not say it.
    """
    plan = plan_load(path, clip=clip, **options)
    for note in plan.assumptions:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return plan.run()


@dataclass
class LoadPlan:
    """What `load` is about to do.

    Attributes:
        path: the file.
        translated: its content.
        info: the network that it is for, and its input.
        report: what will happen to every key.
        assumptions: what was assumed because the file does not say it.
    """

    path: Path
    translated: Translated
    info: WeightsInfo
    report: LoadReport
    assumptions: list[str]

    def run(self) -> Network:
        """Build the network and fill it.

        Raises:
            ValueError: the file does not fit the network, or is damaged.
        """
        check(self.path, self.translated, self.report)
        model = create_model(**self.info.config)
        model.info = self.info
        fill(model, self.translated, self.report)
        return model.eval()


def plan_load(path: str | os.PathLike, *, clip: str | None = None, **options: Any) -> LoadPlan:
    """Do all that `load` does before it takes memory for the network.

    The network is built on the meta device and compared with the file, so a description of a
    network that is larger than the file costs nothing. Arguments and errors are those of `load`.
    """
    path = Path(path)
    translated = translate(read_checkpoint(path))
    with errors_about(path):
        info, assumptions = resolve_network(path, translated, clip=clip, **options)
        with meta_device():
            model = create_model(**info.config)
        report = compare(model, translated, new_blocks=translated.flat)
        return LoadPlan(path, translated, info, report, assumptions)


def is_image_classifier(path: str | os.PathLike) -> bool:
    """Tell whether a file is an image classifier, from which `load` needs num_classes=0.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    return translate(read_checkpoint(Path(path))).flat


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    new_classifier: bool = False,
    new_blocks: bool = False,
    new_parts: Sequence[str] = (),
) -> LoadReport:
    """Fill a model from a file of any known format; no key is left out silently.

    The format is detected from the content: ours, the official Caffe2 pickles, PySlowFast,
    MMAction2, PyTorchVideo, torchvision's Mask and Keypoint R-CNN, and 2-D ImageNet ResNets of
    torchvision, timm and Caffe2, which are inflated or fill the backbone of a detector.

    Args:
        model: the network.
        path: the file.
        new_classifier: keep the layers that depend on the classes as they are: `fc`; of a detector
            the box predictor and the last layer of the mask predictor.
        new_blocks: keep non-local blocks that the file lacks as they are. New blocks are the
            identity, so the network can start from one without them (paper, section 4.1).
        new_parts: parts of the network, such as "res5", that the file may lack in whole or in part;
            what it lacks is kept as it is.

    Returns:
        What happened to every key.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint; keys are missing, unknown or of another shape,
            each named; the network pads or pools in another way than the file's. The model is then
            unchanged.

    Warns:
        UserWarning: the network pads or compares in another way than such files nearly always do.

    Source: docs/weights.md lists the differences between the origins.
    """
    translated = translate(read_checkpoint(path))
    if translated.flat:
        translated = family_of(model).load("weights").use_classifier(translated)
    report = compare(
        model, translated, new_classifier=new_classifier, new_blocks=new_blocks, new_parts=new_parts
    )
    check(path, translated, report)
    own = getattr(model, "arguments", getattr(model, "config", {}))
    for name, (value, why) in translated.assumed.items():
        given = own.get(name, value)
        is_used = name != "scale" or own.get("pairwise") in SOFTMAX_FORMS
        if differ(name, given, value) and is_used:
            warnings.warn(f"{path}: {name}={given!r} here, {value!r} {why}", stacklevel=2)
    fill(model, translated, report)
    return report


def read_info(path: str | os.PathLike) -> WeightsInfo:
    """Read the description in a weights file of ours.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint, or not one of ours.
    """
    checkpoint = read_checkpoint(path)
    if KEY not in checkpoint.meta:
        raise ValueError(
            f"{path} does not say which network it is for: it was not written by nonlocalnet"
        )
    return read_description(checkpoint)


@dataclass(frozen=True)
class Pretrained:
    """What a training takes over from the file that it starts from, besides the weights.

    Attributes:
        mean, std: normalization of the input.
        classes: their names, if known.
    """

    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    classes: list[str] = field(default_factory=list)


def read_pretrained(path: str | os.PathLike) -> Pretrained:
    """Read the normalization and the classes that the weights in a file were trained with.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    translated = translate(read_checkpoint(path))
    return Pretrained(translated.mean, translated.std, name_classes(Path(path), translated))
