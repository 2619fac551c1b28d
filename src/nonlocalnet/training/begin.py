"""How a run begins or goes on: what is there, what fits, what it starts from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from nonlocalnet.data.decode import VideoError
from nonlocalnet.data.video import VideoDataset
from nonlocalnet.models.registry import create_model
from nonlocalnet.models.video_resnet import VideoResNet
from nonlocalnet.models.weights import Start, load_weights, read_start
from nonlocalnet.runtime.checkpoint import Checkpoints
from nonlocalnet.runtime.distributed import rank, share, size
from nonlocalnet.runtime.log import status
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.inputs import find_start, fingerprint, normalize_as, read_data

FIRST = 5  # validation videos of which one must be readable


@dataclass
class Beginning:
    """The network, filled, its data, and the checkpoint to go on from, if there is one."""

    network: VideoResNet
    training: VideoDataset
    validation: VideoDataset | None
    start: Start
    videos: str
    saved: dict[str, Any] | None


def check(config: TrainConfig) -> None:
    """Refuse, before anything is read, what cannot be trained.

    Raises:
        ValueError, FileNotFoundError: it says what to choose instead.
    """
    if config.out.exists() and not config.out.is_dir():
        raise ValueError(f"{config.out} is a file: --out names the folder of the run")
    if config.batch_size % (size() * config.accumulate):
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared evenly by {size()} processes in "
            f"{config.accumulate} parts each: choose a multiple of {size() * config.accumulate}"
        )
    for source in (config.data, config.val):
        if source is not None and not source.exists():
            raise FileNotFoundError(f"no videos at {source}: name a data set, a folder or a list")
    if config.look is not None and not config.look.is_file():
        raise FileNotFoundError(f"no video at {config.look}: --look names one file")


def begin(config: TrainConfig, checkpoints: Checkpoints) -> Beginning:
    """Read what there is: the run's own checkpoint, or the weights to start from; and the data.

    Raises:
        ValueError: the folder holds a run that is not to go on; or one with other options or
            videos; options or labels that do not fit each other.
        FileNotFoundError: data or weights that are not there.
    """
    weights = config.out / "model.safetensors"
    if (checkpoints.files() or weights.exists()) and not config.resume:
        raise ValueError(
            f"{config.out} holds a run already: choose another folder, or pass --resume"
        )
    saved = share(checkpoints.load() if rank() == 0 else None)
    if saved is not None:
        config.check_goes_on()
    elif weights.exists():
        raise ValueError(
            f"the checkpoints of {config.out} are gone, its weights are there: choose another "
            f"folder, with --init {weights} to start from them"
        )
    elif config.resume:
        status.print(f"there is no run in {config.out} yet: this one begins", soft_wrap=True)
    path = find_start(config) if saved is None else None
    torch.manual_seed(config.seed)
    training, validation, classes = read_data(config)
    status.print(
        f"{len(training)} training videos, {len(classes)} classes"
        f"{', many labels a video' if training.multi_label else ''}"
    )
    if validation is not None:
        _check_readable(validation)
    videos = fingerprint(training.records)
    if saved is not None and saved["videos"] != videos:
        raise ValueError(
            f"the training videos or their labels in {config.data} are not those that "
            f"{config.out} began with"
        )
    network = create_model(
        config.model,
        num_classes=len(classes),
        clip=config.clip,
        crop=config.crop,
        **config.model_options(),
    )
    if saved is not None:
        mean, std = map(tuple, saved["input"])
        start = Start(mean, std, classes)
    elif path is None:
        start = Start(classes=classes)
    else:
        start = read_start(path)
        fresh = start.classes != classes
        report = load_weights(network, path, new_classifier=fresh, new_blocks=True)
        status.print(f"weights from {path} ({report.origin}): {report}", soft_wrap=True)
        start = dataclasses.replace(start, classes=classes)
    normalize_as(start, training, validation)
    return Beginning(network, training, validation, start, videos, saved)


def _check_readable(validation: VideoDataset) -> None:
    """Refuse validation videos that would end the run at the first validation, hours later."""
    errors: list[VideoError] = []
    for index in range(min(FIRST, len(validation))):
        try:
            validation[index]
            return
        except VideoError as error:
            errors.append(error)
    raise ValueError(f"the first {len(errors)} validation videos cannot be read: {errors[0]}")
