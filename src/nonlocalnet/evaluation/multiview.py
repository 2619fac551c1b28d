"""Multi-view testing: several clips and crops of each video, their probabilities averaged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nonlocalnet.data.decode import VideoError, VideoReader
from nonlocalnet.data.sampling import ClipSpec, center_clip, test_clips
from nonlocalnet.data.transforms import TestTransform
from nonlocalnet.data.video import VideoDataset
from nonlocalnet.models.video_resnet import VideoResNet

MAX_VIEWS = 16  # in one forward pass


@dataclass
class Predictions:
    """Class probabilities of the videos that could be read, and the errors of the others.

    probabilities (N, K), target (N,) or (N, K), indices (N,) into the data set's records.
    """

    probabilities: Tensor
    target: Tensor
    indices: Tensor
    unreadable: list[str]


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager:
    """Compute in `dtype` where it is safe; None is full precision."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


@torch.no_grad()
def evaluate(
    model: VideoResNet,
    dataset: VideoDataset,
    *,
    multi_label: bool = False,
    workers: int = 0,
    dtype: torch.dtype | None = None,
    on_video: Callable[[int], None] = lambda videos: None,
) -> Predictions:
    """Compute the probabilities of every video of a test set.

    p(video) = mean over views of p(view), p(view) by `VideoResNet.probabilities`: probabilities
    are averaged, not logits. Videos that cannot be read are skipped and reported.

    Source: official code, `tools/test_net_video.py`; paper, section 4 (10 clips, averaged softmax).

    Args:
        model: the network; it is put in evaluation mode, and back afterwards.
        dataset: with `train=False`.
        multi_label: sigmoid instead of softmax.
        workers: processes that decode.
        dtype: of autocast.
        on_video: called with the number of videos done.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    probabilities, target, indices, unreadable = [], [], [], []
    views = dataset.num_clips * getattr(dataset.transform, "num_crops", 1)
    loader = DataLoader(
        _Tolerant(dataset),
        batch_size=max(1, MAX_VIEWS // views),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    try:
        for clips, labels, numbers, errors in loader:
            unreadable += errors
            if clips is not None:
                with autocast(device, dtype):
                    p = view_probabilities(model, clips.flatten(0, 1), multi_label)
                probabilities.append(p.unflatten(0, clips.shape[:2]).mean(dim=1))
                target.append(labels)
                indices.append(numbers)
            on_video(len(errors) + (0 if clips is None else len(clips)))
    finally:
        model.train(was_training)
    if not probabilities:
        raise ValueError(f"no video could be read; the first: {unreadable[0]}")
    return Predictions(torch.cat(probabilities), torch.cat(target), torch.cat(indices), unreadable)


def view_probabilities(model: VideoResNet, views: Tensor, multi_label: bool) -> Tensor:
    """Compute p of each view, `MAX_VIEWS` at a time: (V, 3, T, H, W) -> (V, K) on the CPU."""
    device = next(model.parameters()).device
    chunks = [
        model.probabilities(chunk.to(device), multi_label=multi_label).float().cpu()
        for chunk in views.split(MAX_VIEWS)
    ]
    return torch.cat(chunks)


@torch.no_grad()
def predict(
    model: VideoResNet,
    path: str | os.PathLike,
    *,
    top: int = 5,
    num_clips: int = 10,
    num_crops: int = 1,
) -> list[tuple[str, float]]:
    """Classify one video file.

    Args:
        model: from `nl.load`, which knows clip, size and class names.
        path: the video.
        top: how many classes to give.
        num_clips, num_crops: views: that many clips, 1 or 3 crops of each.

    Returns:
        (class, probability) pairs, the likeliest first.

    Raises:
        VideoError: the file is missing or cannot be decoded.
    """
    info = getattr(model, "info", None)
    if info is None:
        raise ValueError("this model does not know its clip and classes: load it with nl.load")
    if top < 1 or num_clips < 1:
        raise ValueError(f"top and num_clips must be at least 1; got {top} and {num_clips}")
    clip = ClipSpec.parse(info.config["clip"])
    side = info.short_side
    transform = TestTransform(side, side, num_crops, info.mean, info.std)
    with VideoReader(Path(path)) as reader:
        n = reader.num_frames
        clips = [center_clip(n, clip)] if num_clips == 1 else test_clips(n, clip, num_clips)
        frames = reader.frames(list(chain(*clips)), short_side=side)
    views = torch.cat([transform(part) for part in frames.split(clip.frames)])
    model.eval()
    p = view_probabilities(model, views, info.multi_label).mean(dim=0)
    best = p.topk(min(top, len(p)))
    return [
        (info.class_name(int(label)), float(value))
        for value, label in zip(best.values, best.indices, strict=True)
    ]


class _Tolerant(Dataset):
    """Give the error instead of raising it, so that one bad file does not end a test."""

    def __init__(self, dataset: VideoDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int] | str:
        try:
            return self.dataset[index]
        except VideoError as error:
            return str(error)


def _collate(
    items: list[tuple[Tensor, Tensor, int] | str],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[str]]:
    errors = [item for item in items if isinstance(item, str)]
    good = [item for item in items if not isinstance(item, str)]
    if not good:
        return None, None, None, errors
    clips, target, indices = zip(*good, strict=True)
    return torch.stack(clips), torch.stack(target), torch.tensor(indices), errors
