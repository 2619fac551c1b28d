"""Copy a data set with smaller frames, so that training decodes no more than it uses."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.video.reformatter import VideoReformatter

from nonlocalnet.data.find_videos import find_videos, video_stem
from nonlocalnet.data.sampling import limit_short_side
from nonlocalnet.data.video.frame_folder import ASSUMED_RATE, FrameFolder
from nonlocalnet.data.video.frame_index import decode_in_order, index_frames
from nonlocalnet.data.video.open import VideoError, open_video
from nonlocalnet.data.video.rotation import display_matrix, shown_size, swaps_sides, upright
from nonlocalnet.runtime.isolated import Failure, run_isolated

SETTINGS = ".resized.json"
KEY_FRAMES = 32  # frames from one key frame to the next: a clip may begin anywhere


@dataclass
class ResizeReport:
    """How many videos were written, how many existed already, and which could not be copied."""

    written: int = 0
    skipped: int = 0
    bad: list[tuple[Path, str]] = field(default_factory=list)


def resize_dataset(
    source: str | Path,
    out: str | Path,
    *,
    short_side: int = 256,
    crf: int = 20,
    workers: int = 1,
    time_limit: float = 600.0,
    progress: Callable[[int, str], None] = lambda done, text: None,
) -> ResizeReport:
    """Copy a data set with all its videos resized by `resize_video`.

    Every video keeps its place and name, with the suffix .mp4; so does a folder of numbered
    pictures, at 25 frames a second. Lists (.txt, .csv, .json) are copied; absolute paths below
    `source` in a .txt or .csv become relative. Videos that `out` has already are skipped. Originals
    are only read.

    Args:
        source: the folder of the data set.
        out: the folder of the copy.
        short_side: pixels of the shorter side; smaller videos keep their size.
        crf: quality of H.264, 0 to 51; lower is better.
        workers: processes.
        time_limit: seconds for one video.
        progress: called with a number of videos done and the count of bad ones so far.

    Raises:
        ValueError: one folder is inside the other, there is no video, or `out` was begun with other
            settings.
    """
    source, out = Path(source).resolve(), Path(out).resolve()
    if not source.is_dir():
        raise ValueError(f"{source} is no folder: name the one that holds the videos and the lists")
    if out.is_relative_to(source) or source.is_relative_to(out):
        raise ValueError(f"{out} and {source} contain one another: choose a folder elsewhere")
    found = find_videos(source)
    if not found.videos:
        raise ValueError(f"{source}: no videos found below it")
    _keep_settings(out, {"short_side": short_side, "crf": crf})
    _copy_lists(found.lists, source, out)
    report, taken, todo = ResizeReport(), set(), []
    for video in found.videos:
        place = out / video.relative_to(source)
        target = place.with_name(f"{video_stem(video.name)}.mp4")
        if target in taken:
            report.bad.append((video, "another video beside it has the same name"))
        elif target.exists() and target.stat().st_mtime >= video.stat().st_mtime:
            report.skipped += 1
        else:
            todo.append((video, target, short_side, crf))
        taken.add(target)
    progress(len(found.videos) - len(todo), f"{len(report.bad)} bad")
    for i, result in run_isolated(resize_video, todo, workers=workers, time_limit=time_limit):
        if isinstance(result, Failure):
            video, target, *_ = todo[i]
            _partial(target).unlink(missing_ok=True)
            report.bad.append((video, result.reason.removeprefix(f"{video}: ")))
        else:
            report.written += 1
        progress(1, f"{len(report.bad)} bad")
    return report


def resize_video(source: Path, target: Path, short_side: int, crf: int) -> None:
    """Write an H.264 copy of a video with a shorter side of `short_side`, atomically.

    Smaller videos keep their size. Sizes are rounded down to even numbers. Frames and their time
    stamps stay, sound does not, and a rotation is applied to the pixels. Pixels keep their shape,
    so that anamorphic videos are shown as wide as before, and their colors. Scaling is bicubic, the
    format is yuv420p, with a key frame at least every 32 frames. The official script makes the
    height 256, so that the shorter side of portrait videos is smaller.

    Raises:
        VideoError: the video cannot be decoded to its end.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(target)
    try:
        copy = _copy_pictures if source.is_dir() else _copy
        frames = copy(source, partial, short_side, crf)
        container, stream = open_video(partial)
        with container:
            copied = index_frames(partial, container, stream).num_frames
        if copied != frames:
            raise VideoError(source, f"its copy has {copied} of {frames} frames")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: Path, target: Path, short_side: int, crf: int) -> int:
    container, stream = open_video(source)
    with container:
        index = index_frames(source, container, stream)
    container, stream = open_video(source)
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    # without reliable time stamps, frames follow each other at the average rate
    base = stream.time_base if index.stamps and stream.time_base else 1 / rate
    base = base if base.denominator <= 2**31 - 1 else 1 / rate
    reformat, count, writer = VideoReformatter(), 0, None
    with container, av.open(str(target), "w", format="mp4") as file:
        try:
            for frame in decode_in_order(container, stream, index.unusable):
                if writer is None:
                    size = limit_short_side(*shown_size(frame), short_side)
                    writer = _add_stream(file, rate, size, crf)
                    writer.codec_context.time_base = writer.time_base = base
                image = _small(frame, reformat, writer)
                if not count:
                    _describe(writer.codec_context, image, _pixel_shape(stream, frame))
                image.pts = frame.pts if index.stamps else count
                image.time_base = base
                file.mux(writer.encode(image))
                count += 1
        except av.FFmpegError as error:
            raise VideoError(
                source, f"fails after {count} of {index.num_frames} frames ({error.strerror})"
            ) from error
        if writer is None or count != index.num_frames:
            raise VideoError(source, f"only {count} of {index.num_frames} frames can be decoded")
        file.mux(writer.encode(None))
    return count


def _copy_pictures(source: Path, target: Path, short_side: int, crf: int) -> int:
    rate, reformat = Fraction(ASSUMED_RATE), VideoReformatter()
    with FrameFolder(source) as folder, av.open(str(target), "w", format="mp4") as file:
        about = folder.info()
        size = limit_short_side(about.height, about.width, short_side)
        writer = _add_stream(file, rate, size, crf)
        for i, frame in enumerate(folder.decode(range(folder.num_frames))):
            image = _scale(frame, reformat, writer.height, writer.width, "yuv420p")
            image.pts, image.time_base = i, 1 / rate
            file.mux(writer.encode(image))
        file.mux(writer.encode(None))
    return folder.num_frames


def _add_stream(
    file: av.container.OutputContainer, rate: Fraction, size: tuple[int, int], crf: int
) -> av.VideoStream:
    options = {"crf": str(crf), "preset": "fast", "g": str(KEY_FRAMES)}
    writer = file.add_stream("libx264", rate=rate, options=options)
    writer.height, writer.width = (max(2, side // 2 * 2) for side in size)
    writer.pix_fmt = "yuv420p"
    writer.codec_context.thread_count = 1
    return writer


def _pixel_shape(stream: av.VideoStream, frame: av.VideoFrame) -> Fraction | None:
    """Divide the width of a pixel, as shown, by its height; None where the file does not say."""
    shape = stream.sample_aspect_ratio
    return 1 / shape if shape and swaps_sides(frame) else shape or None


def _describe(
    context: av.VideoCodecContext, image: av.VideoFrame, pixel_shape: Fraction | None
) -> None:
    """Copy what the first image says of its colors: players would guess wrongly without it."""
    if pixel_shape is not None:
        context.sample_aspect_ratio = pixel_shape
    context.colorspace, context.color_range = image.colorspace, image.color_range
    context.color_primaries, context.color_trc = image.color_primaries, image.color_trc


def _small(
    frame: av.VideoFrame, reformat: VideoReformatter, stream: av.VideoStream
) -> av.VideoFrame:
    height, width = stream.height, stream.width
    if display_matrix(frame) is None and not frame.format.is_rgb:
        return _scale(frame, reformat, height, width, "yuv420p")
    if swaps_sides(frame):
        height, width = width, height
    rgb = _scale(frame, reformat, height, width, "rgb24")
    return av.VideoFrame.from_ndarray(upright(rgb.to_ndarray(), frame), format="rgb24")


def _scale(
    frame: av.VideoFrame, reformat: VideoReformatter, height: int, width: int, pix_fmt: str
) -> av.VideoFrame:
    return reformat.reformat(frame, width, height, pix_fmt, interpolation="BICUBIC", threads=1)


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _keep_settings(out: Path, settings: dict[str, int]) -> None:
    file = out / SETTINGS
    if file.is_file() and json.loads(file.read_text()) != settings:
        raise ValueError(f"{out} was begun with {file.read_text().strip()}: name another folder")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings) + "\n")


def _copy_lists(lists: Sequence[Path], source: Path, out: Path) -> None:
    prefix = f"{source}/".encode("utf-8", "surrogateescape")
    for path in lists:
        target = out / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".json":
            shutil.copyfile(path, target)
        else:
            lines = path.read_bytes().splitlines(keepends=True)
            target.write_bytes(b"".join(line.removeprefix(prefix) for line in lines))
