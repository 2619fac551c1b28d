"""Save a network in our format, or export it to the format of another code base."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nonlocalnet.checkpoints import checksum
from nonlocalnet.checkpoints.files import KEY
from nonlocalnet.checkpoints.formats import caffe2, pyslowfast_export
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.report import differ
from nonlocalnet.errors import check_choice
from nonlocalnet.networks.arguments import defaults_of
from nonlocalnet.networks.video_resnet import VideoResNet

Format = Literal["caffe2", "pyslowfast"]


def save_weights(model: nn.Module, path: str | os.PathLike, info: WeightsInfo) -> None:
    """Write the parameters and buffers of a model, with `info` and a checksum in the metadata."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    meta = {KEY: info.as_json(), checksum.KEY: checksum.UNSIGNED}
    save_file(tensors, path, metadata=meta)
    checksum.sign(path)


def export_weights(model: VideoResNet, path: str | os.PathLike, format: Format) -> list[str]:
    """Export a network to the format of another code base.

    Reading the file back gives the same numbers, bit for bit; Caffe2 does not store the batch
    counters of norms, they become zero.

    Args:
        model: the network.
        path: the file: usually .pkl for Caffe2, .pyth for PySlowFast.
        format: "caffe2" or "pyslowfast".

    Returns:
        What the file cannot store; `load` will ask for it or assume it.

    Raises:
        ValueError: an unknown format; the other code base has no such network.
    """
    check_choice("format", format, get_args(Format))
    path = Path(path)
    if not isinstance(model, VideoResNet):
        raise ValueError(
            f"{format} files store C2D, I3D, Slow and SlowFast, not a {type(model).__name__}"
        )
    arguments, clip = model.arguments, model.config["clip"]
    stages = len(arguments["depths"])
    usual = defaults_of(type(model)) | {
        "strides": (1, *[2] * (stages - 1)),
        "dilations": (1,) * stages,
    }
    state = {name: _lazy(value) for name, value in model.state_dict().items()}
    if format == "caffe2":
        blobs = caffe2.export(state)
        with path.open("wb") as file:
            caffe2.write(file, blobs)
        return [
            f"{name}={value!r}"
            for name, value in {"clip": clip, **arguments}.items()
            if name in ("clip", "alpha")
            or (name in caffe2.UNSAID and differ(name, value, usual[name]))
        ]
    info = getattr(model, "info", None) or WeightsInfo(config=model.config)
    content = pyslowfast_export.export(
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


def _lazy(value: Tensor) -> LazyTensor:
    return LazyTensor(tuple(value.shape), value.dtype, lambda: value.detach().cpu().contiguous())
