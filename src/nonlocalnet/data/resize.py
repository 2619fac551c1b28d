"""Copy a data set with smaller pictures, so that training decodes no more than it shows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.video.reformatter import VideoReformatter

from nonlocalnet.data.find_videos import LISTS, video_stem, walk
from nonlocalnet.data.sampling import short_side_size
from nonlocalnet.data.suffixes import is_video
from nonlocalnet.data.video.frame_folder import ASSUMED_RATE, FrameFolder
from nonlocalnet.data.video.frame_index import index_frames, whole_packets
from nonlocalnet.data.video.open import VideoError, open_video
from nonlocalnet.data.video.reader import turned, upright
from nonlocalnet.runtime.isolated import Failure, run_isolated

SETTINGS = ".resized.json"
KEY_FRAMES = 32  # frames from one key frame to the next: a clip begins anywhere


@dataclass
class ResizeReport:
    """How many videos were written, how many were there already, and which could not be."""

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
    """Copy the folder `source` to `out`, its videos by `resize_video`: the same data set, smaller.

    Every video is at its place under its name, with the suffix .mp4, a folder of numbered pictures
    as well, at 25 frames a second; every .txt, .csv and .json is copied, and where one names videos
    by their absolute path below `source`, the path becomes relative. What `out` has already is not
    made again. Originals are only read.

    Raises ValueError where one folder lies in the other, where there is no video, and where `out`
    was begun with other settings.
    """
    source, out = Path(source).resolve(), Path(out).resolve()
    if not source.is_dir():
        raise ValueError(f"{source} is no folder: name the one that holds the videos and the lists")
    if out.is_relative_to(source) or source.is_relative_to(out):
        raise ValueError(f"{out} and {source} lie one in the other: choose a folder elsewhere")
    videos = walk(source).videos
    if not videos:
        raise ValueError(f"{source}: no videos found below it")
    _keep_settings(out, {"short_side": short_side, "crf": crf})
    _copy_lists(source, out)
    report, taken, todo = ResizeReport(), set(), []
    for video in videos:
        place = out / video.relative_to(source)
        target = place.with_name(f"{video_stem(video.name)}.mp4")
        if target in taken:
            report.bad.append((video, "another video beside it has the same name"))
        elif target.exists() and target.stat().st_mtime >= video.stat().st_mtime:
            report.skipped += 1
        else:
            todo.append((video, target, short_side, crf))
        taken.add(target)
    progress(len(videos) - len(todo), f"{len(report.bad)} bad")
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
    """Write an H.264 copy whose shorter side is `short_side`, or as it is where that is smaller.

    Sizes are made even, downwards; frames and their time stamps stay, sound does not; a rotation is
    applied to the pixels. A pixel keeps its shape, so that anamorphic videos are shown as wide as
    before, and its color. bicubic, yuv420p, a key frame at least every 32 frames. The official
    script makes the height 256, so that portrait videos end with a shorter side below it. The file
    appears whole or not at all.

    Raises VideoError for a video that cannot be decoded to its end.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(target)
    try:
        copy = _copy_pictures if source.is_dir() else _copy
        frames = copy(source, partial, short_side, crf)
        container, stream = open_video(partial)
        with container:
            copied = index_frames(container, stream).num_frames
        if copied != frames:
            raise VideoError(source, f"its copy has {copied} of {frames} frames")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: Path, target: Path, short_side: int, crf: int) -> int:
    container, stream = open_video(source)
    with container:
        index = index_frames(container, stream)
    container, stream = open_video(source)
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    # without time stamps to rely on frames follow each other at the average rate
    base = stream.time_base if index.stamps and stream.time_base else 1 / rate
    base = base if base.denominator <= 2**31 - 1 else 1 / rate
    reformat, count, writer = VideoReformatter(), 0, None
    with container, av.open(str(target), "w", format="mp4") as file:
        try:
            for place, packet in enumerate(whole_packets(container, stream)):
                if place < index.unusable:
                    continue
                for frame in stream.decode(packet):
                    if writer is None:
                        options = {"crf": str(crf), "preset": "fast", "g": str(KEY_FRAMES)}
                        writer = file.add_stream("libx264", rate=rate, options=options)
                        writer.height, writer.width = _even_size(frame, short_side)
                        writer.pix_fmt = "yuv420p"
                        writer.codec_context.thread_count = 1
                        writer.codec_context.time_base = base
                        writer.time_base = base
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
        size = (about.height, about.width)
        size = short_side_size(*size, short_side) if min(size) > short_side else size
        options = {"crf": str(crf), "preset": "fast", "g": str(KEY_FRAMES)}
        writer = file.add_stream("libx264", rate=rate, options=options)
        writer.height, writer.width = (max(2, side // 2 * 2) for side in size)
        writer.pix_fmt = "yuv420p"
        writer.codec_context.thread_count = 1
        for i, frame in enumerate(folder.decode(range(folder.num_frames))):
            image = reformat.reformat(
                frame, writer.width, writer.height, "yuv420p", interpolation="BICUBIC", threads=1
            )
            image.pts, image.time_base = i, 1 / rate
            file.mux(writer.encode(image))
        file.mux(writer.encode(None))
    return folder.num_frames


def _even_size(frame: av.VideoFrame, short_side: int) -> tuple[int, int]:
    height, width = frame.height, frame.width
    if min(height, width) > short_side:
        height, width = short_side_size(height, width, short_side)
    if turned(frame):
        height, width = width, height
    return max(2, height // 2 * 2), max(2, width // 2 * 2)


def _pixel_shape(stream: av.VideoStream, frame: av.VideoFrame) -> Fraction | None:
    """Give the width of a pixel as shown over its height; None where the file does not tell."""
    shape = stream.sample_aspect_ratio
    return 1 / shape if shape and turned(frame) else shape or None


def _describe(
    context: av.VideoCodecContext, image: av.VideoFrame, pixel_shape: Fraction | None
) -> None:
    """Say what the first image says: without it, its numbers stand for other colors."""
    if pixel_shape is not None:
        context.sample_aspect_ratio = pixel_shape
    context.colorspace, context.color_range = image.colorspace, image.color_range
    context.color_primaries, context.color_trc = image.color_primaries, image.color_trc


def _small(
    frame: av.VideoFrame, reformat: VideoReformatter, stream: av.VideoStream
) -> av.VideoFrame:
    height, width = stream.height, stream.width
    if turned(frame) is None and not frame.format.is_rgb:
        return reformat.reformat(
            frame, width, height, "yuv420p", interpolation="BICUBIC", threads=1
        )
    if turned(frame):
        height, width = width, height
    rgb = reformat.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1)
    return av.VideoFrame.from_ndarray(upright(rgb.to_ndarray(), frame), format="rgb24")


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _keep_settings(out: Path, settings: dict[str, int]) -> None:
    file = out / SETTINGS
    if file.is_file() and json.loads(file.read_text()) != settings:
        raise ValueError(f"{out} was begun with {file.read_text().strip()}: name another folder")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings) + "\n")


def _copy_lists(source: Path, out: Path) -> None:
    prefix = f"{source}/".encode("utf-8", "surrogateescape")
    for folder, inner, names in os.walk(source, followlinks=False):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() not in LISTS or name.startswith(".") or is_video(name):
                continue
            target = out / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() == ".json":
                shutil.copyfile(path, target)
            else:
                lines = path.read_bytes().splitlines(keepends=True)
                target.write_bytes(b"".join(line.removeprefix(prefix) for line in lines))
