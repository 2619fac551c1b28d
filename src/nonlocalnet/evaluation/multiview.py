"""Multi-view testing: average probabilities over several clips and crops of each video."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.video.reader import VideoError
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


class VideoScores(NamedTuple):
    """The class probabilities (K,) of a video, and the scores (V, K) of its views."""

    index: int
    probabilities: Tensor
    views: Tensor


class Unreadable(NamedTuple):
    """A video that could not be read, and why."""

    index: int
    error: VideoError


@torch.no_grad()
def score_videos(
    model: Network,
    dataset: VideoDataset,
    indices: Sequence[int],
    *,
    multi_label: bool = False,
    average: str = "probabilities",
    workers: int = 0,
    dtype: torch.dtype | None = None,
) -> Generator[VideoScores | Unreadable]:
    """Compute the class probabilities of some videos of a test set, and yield them in order.

    Videos are decoded in worker processes, and views of several videos are computed together. The
    model is in evaluation mode meanwhile. Close the generator (`contextlib.closing`) if you stop
    early: that ends the workers.

    Args:
        indices: the videos, as indices of the data set.
        model, dataset, multi_label, average, workers, dtype: as in `evaluate`.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    forward = Forward(model, dataset.normalize, multi_label, average, dtype)
    views_each = dataset.num_clips * getattr(dataset.transform, "num_crops", 1)
    reading = {
        "workers": workers,
        "ahead": forward.at_once // views_each,  # the next batch, while one is computed
        "pin_memory": device.type == "cuda",
    }
    try:
        with read_items(_Share(dataset, indices), **reading) as items:
            for batch in _batches(items, forward):
                scores = _score(batch, forward)
                for item in batch:
                    if isinstance(item, Unreadable):
                        yield item
                    else:
                        part = next(scores)
                        yield VideoScores(item.index, forward.of_video(part), part)
    finally:
        model.train(was_training)


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
    share = range(rank(), len(dataset), world_size())
    options = {"multi_label": multi_label, "average": average, "workers": workers, "dtype": dtype}
    rows: dict[int, tuple[Tensor, Tensor, float] | str] = {}
    with contextlib.closing(score_videos(model, dataset, share, **options)) as videos:
        for video in videos:
            if isinstance(video, Unreadable):
                rows[video.index] = str(video.error)
            else:
                target = dataset.target(video.index)
                best = video.views.argmax(dim=1)
                right = target[best] if multi_label else best == target
                rows[video.index] = (video.probabilities, target, right.double().mean().item())
            on_video(1)
    return _merge(all_gather(rows))


def probabilities_of(model: Network, views: Tensor, *, multi_label: bool = False) -> Tensor:
    """Compute class probabilities: by the network's own `probabilities`, else from its logits.

    (B, 3, T, H, W) -> (B, K).
    """
    if hasattr(model, "probabilities"):
        return model.probabilities(views, multi_label=multi_label)
    return _activate(model(views), multi_label)


def _activate(logits: Tensor, multi_label: bool) -> Tensor:
    return logits.sigmoid() if multi_label else logits.softmax(dim=-1)


class Forward:
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


class _Item(NamedTuple):
    index: int
    views: Tensor


class _Share(Dataset):
    """Part of a test set; unreadable videos give their error, so that one does not stop a test."""

    def __init__(self, dataset: VideoDataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> _Item | Unreadable:
        index = self.indices[index]
        try:
            return _Item(index, self.dataset[index][0])
        except VideoError as error:
            return Unreadable(index, error)


def _batches(
    items: Iterable[_Item | Unreadable], forward: Forward
) -> Iterator[list[_Item | Unreadable]]:
    """Group videos with views of the same shape as long as they fit in one forward pass."""
    batch: list[_Item | Unreadable] = []
    views, shape = 0, None  # of the batch
    for item in items:
        if isinstance(item, _Item):
            if views and (
                views + len(item.views) > forward.at_once or shape != item.views.shape[1:]
            ):
                yield batch
                batch, views = [], 0
            views, shape = views + len(item.views), item.views.shape[1:]
        batch.append(item)
        if not views:  # nothing to wait for
            yield batch
            batch = []
    if batch:
        yield batch


def _score(batch: list[_Item | Unreadable], forward: Forward) -> Iterator[Tensor]:
    """Score the views of a batch together, and yield those of each video."""
    views = [item.views for item in batch if isinstance(item, _Item)]
    if views:
        together = torch.cat(views) if len(views) > 1 else views[0]
        yield from forward(together).split([len(part) for part in views])


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
