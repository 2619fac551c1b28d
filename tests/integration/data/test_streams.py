"""Which stream of a file is its video, and what becomes of transparency."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from nonlocalnet.data.check import check_file
from nonlocalnet.data.find_videos import find_videos
from nonlocalnet.data.resize import resize_video
from nonlocalnet.data.video.reader import VideoReader, decode_all, probe


def write(path: Path, default: int) -> Path:
    """Two streams: 32x32 black, then 64x48 white; one of them is the default one."""
    sizes, shades = ((32, 32), (48, 64)), (0, 250)
    with av.open(str(path), "w") as file:
        streams = []
        for i, (height, width) in enumerate(sizes):
            stream = file.add_stream("libx264", rate=25, options={"g": "5"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.disposition = Disposition.default if i == default else Disposition(0)
            streams.append(stream)
        for t in range(12):
            for stream, size, shade in zip(streams, sizes, shades, strict=True):
                image = np.full((*size, 3), abs(shade - 5 * t), np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_stream_is_read_by_all(tmp_path, kind, default):
    path = write(tmp_path / f"a.{kind}", default)
    height, width = ((32, 32), (48, 64))[default]
    info = probe(path)
    assert (info.num_frames, info.height, info.width) == (12, height, width)
    frames = decode_all(path)
    assert frames.shape == (12, 3, height, width)
    assert bool(frames[0].float().mean() > 200) == (default == 1)
    with VideoReader(path) as video:  # the other stream's packets lie between
        assert all((video.frames([i])[0] == frames[i]).all() for i in range(12))
    report = check_file(path)
    assert (report.error, report.damage, report.frames) == ("", "", 12)
    resize_video(path, tmp_path / "b.mp4", 24, 20)
    assert decode_all(tmp_path / "b.mp4").shape[2:] == ((24, 24), (24, 32))[default]


@pytest.mark.parametrize("name", ["two_default.mp4", "two_default.mkv"])
def test_the_given_case(shared, name):
    info = probe(shared / "cases/05-two-streams" / name)
    assert (info.height, info.width) == (240, 320)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.mov", "png", "rgba"),
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.avi", "rawvideo", "bgra"),
        ("a.apng", "apng", "rgba"),
    ],
)
def test_transparency_is_left_out(tmp_path, encode, name, codec, pixels):
    # the colors as the file has them, shown through or not: so FFmpeg makes RGB
    frames = np.zeros((3, 48, 64, 4), np.uint8)
    frames[:, :, :32] = (200, 30, 60, 255)
    frames[:, :24, 32:] = (20, 200, 90, 0)
    frames[:, 24:, 32:] = (60, 60, 220, 100)
    path = encode(tmp_path / name, frames, codec, pix_fmt=pixels)
    resize_video(path, tmp_path / "b.mp4", 24, 5)
    for found in (decode_all(path), decode_all(tmp_path / "b.mp4")):
        assert found.shape[:2] == (3, 3)
        height, width = found.shape[2:]
        for y, x in ((0.5, 0.25), (0.25, 0.75), (0.75, 0.75)):
            color = found[1, :, int(y * height), int(x * width)].int().tolist()
            assert color == pytest.approx(frames[1, int(y * 48), int(x * 64), :3], abs=16)


def test_what_is_transparent_in_a_gif_shows_what_was_there(tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    # each frame draws one square; all else of it is transparent
    images = []
    for t in range(4):
        pixels = np.zeros((32, 32, 4), np.uint8)
        if t == 0:
            pixels[:] = (0, 0, 255, 255)
        pixels[8 * t : 8 * t + 8, :8] = (255, 0, 0, 255)
        images.append(Image.fromarray(pixels))
    path = tmp_path / "a.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, disposal=1)
    with VideoReader(path) as video:
        for t in (3, 1, 2, 0):
            frame = video.frames([t])[0]
            drawn = frame[0, 4::8, 4] > 200
            assert drawn.tolist() == [i <= t for i in range(4)]
            assert (frame[2, :, 20] > 200).all()


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt"),
    [
        ("3gp", "mpeg4", "yuv420p"),
        ("MTS", "mpeg2video", "yuv420p"),
        ("ts", "mpeg2video", "yuv420p"),
        ("vob", "mpeg2video", "yuv420p"),
        ("mxf", "mpeg2video", "yuv420p"),
        ("ogv", "libvpx", "yuv420p"),
        ("gif", "gif", "rgb8"),
        ("nut", "mpeg4", "yuv420p"),
    ],
)
def test_what_is_found_can_be_read(tmp_path, encode, moving, suffix, codec, pix_fmt):
    path = tmp_path / f"a.{suffix}"
    encode(path, moving[:5], codec, pix_fmt=pix_fmt)
    assert find_videos(tmp_path).videos == [path]
    assert decode_all(path).shape[0] == 5
