"""Classify videos: the most probable classes of one, or of many as they are computed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, overload

from torch import Tensor

from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import VideoRecord
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.transforms import TestTransform
from nonlocalnet.data.video.reader import VideoError
from nonlocalnet.evaluation.multiview import Unreadable, score_videos
from nonlocalnet.evaluation.prediction_file import PredictionFile, Row
from nonlocalnet.evaluation.views import Crop, make_test_set
from nonlocalnet.networks.registry import Network
from nonlocalnet.runtime.distributed import (
    all_gather,
    broadcast,
    explain_peer_failure,
    rank,
    world_size,
)
from nonlocalnet.runtime.log import Bar, status

Classes = list[tuple[str, float]]  # (class, probability), by descending probability
Video = str | os.PathLike | PackedVideo


@overload
def predict(
    model: Network,
    path: Video,
    *,
    top: int = 5,
    num_clips: int | None = None,
    num_crops: int = 1,
    side: int | None = None,
    crop: Crop | None = None,
    workers: int = 0,
) -> Classes: ...


@overload
def predict(
    model: Network,
    path: Iterable[Video],
    *,
    top: int = 5,
    num_clips: int | None = None,
    num_crops: int = 1,
    side: int | None = None,
    crop: Crop | None = None,
    workers: int = 0,
) -> Generator[tuple[Path | PackedVideo, Classes | VideoError]]: ...


def predict(
    model: Network,
    path: Video | Iterable[Video],
    *,
    top: int = 5,
    num_clips: int | None = None,
    num_crops: int = 1,
    side: int | None = None,
    crop: Crop | None = None,
    workers: int = 0,
) -> Classes | Generator[tuple[Path | PackedVideo, Classes | VideoError]]:
    """Classify one video file, or many.

    Args:
        model: a network from `nl.load`, which knows clip, size and class names.
        path: the video, or several; also in packed data, as "packed/val/a.mp4".
        top: number of classes to return.
        num_clips, num_crops, side, crop: the views, as in `evaluation.views.make_test_set`.
        workers: decoding processes; 0 decodes in this process.

    Returns:
        Of one video, its (class, probability) pairs by descending probability. Of several, a
        generator of (path, pairs) in the given order, as they are computed; for a video that cannot
        be read, its VideoError stands in the place of the pairs.

    Raises:
        ValueError: a network without `info`, no path, or `top` or `num_clips` below 1.
        VideoError: the one video is missing or cannot be decoded.
    """
    info = info_of(model)
    if top < 1 or (num_clips is not None and num_clips < 1):
        raise ValueError(f"top and num_clips must be at least 1; got {top} and {num_clips}")
    views = {"num_clips": num_clips, "num_crops": num_crops, "side": side, "crop": crop}
    if not isinstance(path, Video):
        dataset = make_unlabeled_set(list(map(as_path, path)), info, **views)
        return predict_some(model, dataset, range(len(dataset)), top=top, workers=workers)
    dataset = make_unlabeled_set([as_path(path)], info, **views)
    ((_, found),) = predict_some(model, dataset, [0], top=top, workers=workers)
    if isinstance(found, VideoError):
        raise found
    return found


def as_path(video: Video) -> Path | PackedVideo:
    """Make a `Path` of a path; a packed video stays as it is."""
    return video if isinstance(video, PackedVideo) else Path(video)


def info_of(model: Network) -> WeightsInfo:
    """Return the description of a network.

    Raises:
        ValueError: it has none.
    """
    info = getattr(model, "info", None)
    if info is None:
        raise ValueError("this model does not know its clip and classes: load it with nl.load")
    return info


def make_unlabeled_set(
    paths: Sequence[Path | PackedVideo], info: WeightsInfo, **views: Any
) -> VideoDataset:
    """Create a test set of videos without labels; views are those of `make_test_set`."""
    records = [VideoRecord(path, (0,), str(path)) for path in paths]  # the label is not used
    return make_test_set(records, info, **views)


def predict_some(
    model: Network, dataset: VideoDataset, indices: Sequence[int], *, top: int, workers: int
) -> Generator[tuple[Path | PackedVideo, Classes | VideoError]]:
    """Classify some videos of a test set: see `predict`."""
    info = model.info
    options: dict[str, Any] = {
        "multi_label": info.multi_label,
        "average": info.views.average,
        "workers": workers,
    }
    with contextlib.closing(score_videos(model, dataset, indices, **options)) as videos:
        for video in videos:
            path = dataset.records[video.index].path
            if isinstance(video, Unreadable):
                yield path, video.error
            else:
                yield path, best_classes(video.probabilities, info, top)


def write_predictions(
    model: Network,
    paths: Sequence[Path | PackedVideo],
    out: Path,
    *,
    about: Mapping[str, Any],
    top: int,
    workers: int,
    **views: Any,
) -> dict[str, str]:
    """Classify many videos, and write a row for each as it is computed: see `PredictionFile`.

    Videos that the file has are not computed again. With several processes, each takes an equal
    share of the others.

    Args:
        model: the network.
        paths: the videos.
        out: a .csv, .jsonl or .parquet file.
        about: what identifies the weights, values for JSON.
        top: number of classes of a row.
        workers: decoding processes for each computing process.
        views: as in `evaluation.views.make_test_set`.

    Returns:
        By video of the whole file, its error; "" for one that could be read.

    Raises:
        ValueError: the file has rows of other weights or views.
        RuntimeError: another process died.
    """
    dataset = make_unlabeled_set(paths, model.info, **views)
    transform = cast("TestTransform", dataset.transform)
    views = {name: getattr(transform, name) for name in ("num_crops", "short_side", "crop", "rule")}
    views |= {"num_clips": dataset.num_clips, "average": model.info.views.average}
    clip = str(dataset.clip)
    file = PredictionFile(out, {**about, "clip": clip, **views}, min(top, dataset.num_classes))
    file.check()
    done = broadcast(file.collect() if rank() == 0 else None)
    todo = [i for i, path in enumerate(paths) if str(path) not in done]
    share = todo[rank() :: world_size()]
    if len(todo) < len(paths):
        text = f"{out} has {len(paths) - len(todo)} of {len(paths)} videos already"
        status.print(text, soft_wrap=True)
    title = "predict" if world_size() == 1 else f"predict, 1 of {world_size()} processes"
    found = predict_some(model, dataset, share, top=top, workers=workers)
    with Bar(title, len(share)) as bar, file.append(rank()) as write, contextlib.closing(found):
        for path, result in found:
            if isinstance(result, VideoError):
                write(Row(str(path), error=result.reason))
            else:
                write(Row(str(path), result))
            bar.advance(text=path.name)
    with explain_peer_failure(f"start all of them again: {out} has the videos that were computed"):
        all_gather(None)
    if rank() == 0:
        done = file.collect()
        file.finish()
    return broadcast(done)


def best_classes(probabilities: Tensor, info: WeightsInfo, top: int) -> Classes:
    """Name the most probable of the classes (K,)."""
    best = probabilities.topk(min(top, len(probabilities)))
    return [
        (info.class_name(label), value)
        for value, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
