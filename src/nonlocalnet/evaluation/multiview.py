"""Multi-view testing: average probabilities over several clips and crops of each video."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import VideoRecord
from nonlocalnet.data.video.reader import VideoError
from nonlocalnet.evaluation.views import Crop, make_test_set
from nonlocalnet.networks.registry import Network
from nonlocalnet.runtime.distributed import PeerLeft, all_gather, rank, world_size
from nonlocalnet.runtime.workers import read_items

# views in one forward pass; halved whenever memory runs out
CPU_VIEWS, ACCELERATOR_VIEWS = 16, 64
CPU_PIXELS = 2**26  # of all views in one forward pass: a CPU does not report a lack of memory


@dataclass
class Predictions:
    """Class probabilities of the videos that could be read, and the errors of the others.

    Attributes:
        probabilities: (N, K).
        target: labels, (N,) or (N, K).
        indices: (N,), positions in the data set's records, in ascending order.
        views_right: (N,), the share of a video's views that are classified correctly by themselves;
            the mean is the "clip accuracy" of the official test.
        unreadable: one error message for each unreadable video.
    """

    probabilities: Tensor
    target: Tensor
    indices: Tensor
    views_right: Tensor
    unreadable: list[str]


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager:
    """Return a context that computes in `dtype` where it is safe; None is full precision."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


@torch.no_grad()
def evaluate(
    model: Network,
    dataset: VideoDataset,
    *,
    multi_label: bool = False,
    average: str = "probabilities",
    workers: int = 0,
    dtype: torch.dtype | None = None,
    on_video: Callable[[int], None] = lambda videos: None,
) -> Predictions:
    """Compute the class probabilities of every video of a test set.

    p(video) is the mean of p(view) over its views, where p(view) comes from `probabilities_of`.
    With average="logits", as in TSM's code, it is the softmax of the mean of the logits.
    Unreadable videos are skipped and reported.

    With several processes (`runtime.distributed.process_group`), each tests the videos rank,
    rank + world size, ..., so that every video counts once; all return the predictions of all.

    Source: official code, `tools/test_net_video.py`; paper, section 4 (10 clips, averaged softmax).

    Args:
        model: it is run in evaluation mode, and its mode is restored.
        dataset: a data set with `train=False`.
        multi_label: sigmoid instead of softmax.
        average: what is averaged over the views, "probabilities" or "logits".
        workers: decoding processes for each computing process.
        dtype: dtype of autocast.
        on_video: called with the number of videos that this process has done. An exception in it
            stops the test and the workers at once.

    Returns:
        Predictions and errors.

    Raises:
        ValueError: no video could be read.
        PeerLeft: another process left the test.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    forward = _Forward(model, dataset.normalize, multi_label, average, dtype)
    share = _Share(dataset, range(rank(), len(dataset), world_size()))
    views_each = dataset.num_clips * getattr(dataset.transform, "num_crops", 1)
    reading = {
        "workers": workers,
        "ahead": forward.at_once // views_each,  # the next batch, while one is computed
        "pin_memory": device.type == "cuda",
    }
    rows: dict[int, tuple[Tensor, Tensor, float] | str] = {}
    try:
        with read_items(share, **reading) as items:
            for batch in _batches(items, forward):
                if isinstance(batch, _Unreadable):
                    rows[batch.index] = batch.error
                    on_video(1)
                    continue
                views = [item[0] for item in batch]
                scores = forward(torch.cat(views) if len(views) > 1 else views[0])
                parts = scores.split([len(part) for part in views])
                for p, (_, labels, index) in zip(parts, batch, strict=True):
                    target = torch.tensor(labels)
                    best = p.argmax(dim=1)
                    right = target[best] if multi_label else best == target
                    rows[index] = (forward.of_video(p), target, right.double().mean().item())
                on_video(len(batch))
    finally:
        model.train(was_training)
    return _merge(all_gather(rows))


@torch.no_grad()
def predict(
    model: Network,
    path: str | os.PathLike,
    *,
    top: int = 5,
    num_clips: int | None = None,
    num_crops: int = 1,
    side: int | None = None,
    crop: Crop | None = None,
) -> list[tuple[str, float]]:
    """Classify one video file.

    Args:
        model: a network from `nl.load`, which knows clip, size and class names.
        path: the video.
        top: number of classes to return.
        num_clips, num_crops, side, crop: the views, as in `evaluation.views.make_test_set`.

    Returns:
        (class, probability) pairs by descending probability.

    Raises:
        ValueError: a network without `info`, or `top` or `num_clips` below 1.
        VideoError: the file is missing or cannot be decoded.
    """
    info = getattr(model, "info", None)
    if info is None:
        raise ValueError("this model does not know its clip and classes: load it with nl.load")
    if top < 1 or (num_clips is not None and num_clips < 1):
        raise ValueError(f"top and num_clips must be at least 1; got {top} and {num_clips}")
    record = VideoRecord(Path(path), (0,), str(path))  # a record needs a label; it is not used
    dataset = make_test_set(
        [record], info, num_clips=num_clips, num_crops=num_crops, side=side, crop=crop
    )
    model.eval()
    forward = _Forward(model, dataset.normalize, info.multi_label, info.views.average)
    p = forward.of_video(forward(dataset[0][0]))
    best = p.topk(min(top, len(p)))
    return [
        (info.class_name(int(label)), float(value))
        for value, label in zip(best.values, best.indices, strict=True)
    ]


def probabilities_of(model: Network, views: Tensor, *, multi_label: bool = False) -> Tensor:
    """Compute class probabilities: by the network's own `probabilities`, else from its logits.

    (B, 3, T, H, W) -> (B, K).
    """
    if hasattr(model, "probabilities"):
        return model.probabilities(views, multi_label=multi_label)
    return _activate(model(views), multi_label)


def _activate(logits: Tensor, multi_label: bool) -> Tensor:
    return logits.sigmoid() if multi_label else logits.softmax(dim=-1)


class _Forward:
    """Compute scores (V, K) of views (V, 3, T, H, W), as many at once as fit in memory.

    Scores are what is averaged over the views: probabilities or logits.
    """

    def __init__(
        self,
        model: Network,
        normalize: Callable[[Tensor], Tensor],
        multi_label: bool,
        average: str = "probabilities",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.normalize = model, normalize
        self.multi_label, self.average, self.dtype = multi_label, average, dtype
        self.device = next(model.parameters()).device
        self.at_once = CPU_VIEWS if self.device.type == "cpu" else ACCELERATOR_VIEWS

    def __call__(self, views: Tensor) -> Tensor:
        done: list[Tensor] = []
        start = 0
        while start < len(views):
            at_once = self.at_once
            if self.device.type == "cpu":
                at_once = max(1, min(at_once, CPU_PIXELS // views[0, 0].numel()))
            chunk = views[start : start + at_once]
            p = self._attempt(chunk)
            if p is None:
                self.at_once = len(chunk) // 2
            else:
                done.append(p)
                start += len(chunk)
        return torch.cat(done)

    def of_video(self, scores: Tensor) -> Tensor:
        """Average the scores of a video's views (V, K) to its class probabilities (K,)."""
        mean = scores.mean(dim=0)
        return _activate(mean, self.multi_label) if self.average == "logits" else mean

    def _attempt(self, chunk: Tensor) -> Tensor | None:
        try:
            views = self.normalize(chunk.to(self.device, non_blocking=True))
            with autocast(self.device, self.dtype):
                if self.average == "logits":
                    scores = self.model(views)
                else:
                    scores = probabilities_of(self.model, views, multi_label=self.multi_label)
            return scores.float().cpu()
        except torch.OutOfMemoryError:
            if len(chunk) == 1:
                raise
            return None  # memory is freed only when this frame is left


class _Unreadable(NamedTuple):
    index: int
    error: str


Item = tuple[Tensor, int | list[float], int]  # views, target, index


class _Share(Dataset):
    """Part of a test set; unreadable videos give their error, so that one does not stop a test."""

    def __init__(self, dataset: VideoDataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item | _Unreadable:
        index = self.indices[index]
        try:
            views, target, _ = self.dataset[index]
            return views, target.tolist(), index  # a list: each tensor sent keeps a file open
        except VideoError as error:
            return _Unreadable(index, str(error))


def _batches(
    items: Iterable[Item | _Unreadable], forward: _Forward
) -> Iterator[list[Item] | _Unreadable]:
    """Group videos with views of the same shape as long as they fit in one forward pass."""
    batch: list[Item] = []
    for item in items:
        if isinstance(item, _Unreadable):
            yield item
            continue
        if batch:
            together = sum(len(other[0]) for other in batch) + len(item[0])
            if together > forward.at_once or item[0].shape[1:] != batch[0][0].shape[1:]:
                yield batch
                batch = []
        batch.append(item)
    if batch:
        yield batch


def _merge(shares: list[dict[int, tuple[Tensor, Tensor, float] | str] | None]) -> Predictions:
    rows: dict[int, tuple[Tensor, Tensor, float] | str] = {}
    for share in shares:
        if share is None:
            raise PeerLeft("another process left the test")
        rows |= share
    good = [(index, row) for index, row in sorted(rows.items()) if not isinstance(row, str)]
    unreadable = [row for _, row in sorted(rows.items()) if isinstance(row, str)]
    if not good:
        raise ValueError(f"no video could be read; the first: {unreadable[0]}")
    p, target, right = zip(*(row for _, row in good), strict=True)
    indices = torch.tensor([index for index, _ in good])
    views_right = torch.tensor(right, dtype=torch.float64)
    return Predictions(torch.stack(p), torch.stack(target), indices, views_right, unreadable)
