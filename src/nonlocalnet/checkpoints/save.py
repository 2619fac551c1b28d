"""Save a network in our format, or export it to the format of another code base."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nonlocalnet.checkpoints import checksum
from nonlocalnet.checkpoints.files import KEY
from nonlocalnet.checkpoints.formats import (
    caffe2,
    gluoncv,
    mmaction2_export,
    pyslowfast_export,
    pytorch_resnet3d,
    tsm,
)
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.report import differ
from nonlocalnet.clips import ClipSpec
from nonlocalnet.errors import check_choice
from nonlocalnet.networks.arguments import defaults_of
from nonlocalnet.networks.video_resnet import VideoResNet

Format = Literal["caffe2", "pyslowfast", "mmaction2", "gluoncv", "tsm", "pytorch_resnet3d"]
# Format -> the module whose `export` makes the content of a torch file.
EXPORTS: dict[str, Any] = {
    "mmaction2": mmaction2_export,
    "gluoncv": gluoncv,
    "tsm": tsm,
    "pytorch_resnet3d": pytorch_resnet3d,
}


def save_weights(model: nn.Module, path: str | os.PathLike, info: WeightsInfo) -> None:
    """Write the parameters and buffers of a model, with `info` and a checksum in the metadata."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    meta = {KEY: info.as_json(), checksum.KEY: checksum.UNSIGNED}
    save_file(tensors, path, metadata=meta)
    checksum.sign(path)


def export_weights(model: VideoResNet, path: str | os.PathLike, format: Format) -> list[str]:
    """Export a network to the format of another code base.

    Reading the file back gives the same numbers, bit for bit; Caffe2 and pytorch-resnet3d do not
    store the batch counters of norms, they become zero.

    Args:
        model: the network.
        path: the file: usually .pkl for Caffe2, .pyth for PySlowFast, .pth for the others.
        format: "caffe2", "pyslowfast", "mmaction2", "gluoncv", "tsm" or "pytorch_resnet3d".

    Returns:
        What the file cannot store; `load` will ask for it or assume it.

    Raises:
        ValueError: an unknown format; the other code base has no such network.
    """
    check_choice("format", format, get_args(Format))
    path = Path(path)
    if not isinstance(model, VideoResNet):
        raise ValueError(f"{format} files store the video networks of the table but torchvision's")
    arguments, clip = model.arguments, model.config["clip"]
    if arguments["shift_div"] and format in ("caffe2", "pyslowfast"):
        raise ValueError(f"{format} files store no temporal shift, which this network has")
    if format == "pyslowfast" and ClipSpec.parse(clip).rate is None:
        raise ValueError(f"PySlowFast has no clips of segments; this network is for {clip}")
    info = getattr(model, "info", None) or WeightsInfo(config=model.config)
    state = {name: _lazy(value) for name, value in model.state_dict().items()}
    if format == "caffe2":
        with path.open("wb") as file:
            caffe2.write(file, caffe2.export(state))
        return _unsaid(model)
    if format == "pyslowfast":
        content = pyslowfast_export.export(
            arguments | {"crop": model.config["crop"]},
            state,
            clip,
            short_side=info.short_side,
            mean=info.mean,
            std=info.std,
            multi_label=info.multi_label,
        )
    else:
        content = EXPORTS[format].export(arguments, state, info)
    torch.save(_read(content), path)
    return UNSAID.get(format, lambda model: [])(model)


def _unsaid(model: VideoResNet) -> list[str]:
    """List what Caffe2's files do not say of a network."""
    arguments = model.arguments
    stages = len(arguments["depths"])
    usual = defaults_of(type(model)) | {
        "strides": (1, *[2] * (stages - 1)),
        "dilations": (1,) * stages,
    }
    return [
        f"{name}={value!r}"
        for name, value in {"clip": model.config["clip"], **arguments}.items()
        if name in ("clip", "alpha") or (name in caffe2.UNSAID and differ(name, value, usual[name]))
    ]


def _clip(model: VideoResNet) -> list[str]:
    return [f"clip={model.config['clip']!r}"]


def _clip_and_shift(model: VideoResNet) -> list[str]:
    return [*_clip(model), f"shift_div={model.arguments['shift_div']}"]


# What the files of a format do not say, of any network.
UNSAID = {"gluoncv": _clip, "tsm": _clip_and_shift, "pytorch_resnet3d": _clip}


def _read(content: Any) -> Any:
    """Read the tensors in a table of tables."""
    if isinstance(content, Mapping):
        return {key: _read(value) for key, value in content.items()}
    return content.read() if isinstance(content, LazyTensor) else content


def _lazy(value: Tensor) -> LazyTensor:
    return LazyTensor(tuple(value.shape), value.dtype, lambda: value.detach().cpu().contiguous())
