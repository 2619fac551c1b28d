from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from nonlocalnet.cli import main
from nonlocalnet.data import resize as module
from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.resize import resize_dataset, resize_video
from nonlocalnet.data.video.open import VideoError
from nonlocalnet.data.video.reader import decode_all, probe


def stamps(path: Path) -> list[float]:
    with av.open(str(path)) as file:
        return [float(frame.time) for frame in file.decode(video=0)]


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("a.mp4", {}, (24, 32)),
        ("a.avi", {"codec": "mpeg4", "options": {"g": "10", "bf": "2"}}, (24, 32)),
        ("a.webm", {"codec": "libvpx-vp9"}, (24, 32)),
        ("a.h264", {}, (24, 32)),
        ("a.mp4", {"turn": (90, False)}, (32, 24)),
        ("a.mp4", {"turn": (0, True)}, (24, 32)),
        ("a.mp4", {"codec": "libx265", "pix_fmt": "yuv420p10le"}, (24, 32)),
    ],
)
def test_a_copy_has_the_same_frames(tmp_path, encode, moving, name, options, size):
    smooth = np.repeat(np.repeat(moving[:, ::8, ::8], 8, 1), 8, 2)
    source = encode(tmp_path / name, smooth, **options)
    bytes_before = source.read_bytes()
    target = tmp_path / "out" / "b.mp4"
    resize_video(source, target, 24, 10)
    found, expected = decode_all(target), decode_all(source, short_side=24)
    assert found.shape == expected.shape == (40, 3, *size)
    # means of quarters: neither mirrored, nor turned, nor in another order or another color
    for half in (found.float() - expected.float()).unflatten(2, (2, -1)).unflatten(4, (2, -1)):
        assert half.mean((2, 4)).abs().max() < 4
    if name not in ("a.h264", "a.avi"):
        np.testing.assert_allclose(stamps(target), stamps(source), atol=1e-3)
    assert source.read_bytes() == bytes_before
    assert [p.name for p in target.parent.iterdir()] == ["b.mp4"]


def test_variable_frame_rate_stays(tmp_path, encode, moving):
    pts = np.cumsum(np.random.default_rng(1).integers(1, 9, len(moving))).tolist()
    source = encode(tmp_path / "a.mp4", moving, pts=pts, rate=100)
    resize_video(source, tmp_path / "b.mp4", 24, 20)
    a, b = np.array(stamps(source)), np.array(stamps(tmp_path / "b.mp4"))
    np.testing.assert_allclose(b - b[0], a - a[0], atol=1e-4)


def test_never_enlarged_even_and_without_sound(tmp_path, encode, moving, shared):
    odd = encode(tmp_path / "odd.mp4", moving[:3, :47, :63], pix_fmt="yuv444p")
    resize_video(odd, tmp_path / "b.mp4", 256, 20)
    assert decode_all(tmp_path / "b.mp4").shape == (3, 3, 46, 62)
    source = shared / "data/clips/tv_WUzgd7C1pWA.mp4"
    with av.open(str(source)) as file:
        assert file.streams.audio
    resize_video(source, tmp_path / "c.mp4", 64, 30)
    with av.open(str(tmp_path / "c.mp4")) as file:
        assert not file.streams.audio
    assert probe(tmp_path / "c.mp4").num_frames == probe(source).num_frames


def test_a_data_set(tmp_path, encode, moving, monkeypatch, capfd):
    source, out = tmp_path / "source", tmp_path / "out"
    (source / "v/deep").mkdir(parents=True)
    encode(source / "v/a b.avi", moving[:5], "mpeg4")
    encode(source / "v/deep/c.mp4", moving[:6])
    (source / "v/bad.mp4").write_bytes(b"no video")
    (source / "train.txt").write_text(f"{source.resolve()}/v/a b.avi 0\nv/bad.mp4 0\n")
    (source / "val.txt").write_text("v/deep/c.mp4 1\n")
    options = ["--short-side", "24", "--workers", "1"]
    assert main(["data", "resize", str(source), str(out), *options]) == 1
    assert "not a readable video" in capfd.readouterr().out
    data = read_dataset(out)
    assert [r.path for r in data.train] == [out / "v/a b.mp4"]
    assert [r.path for r in data.val or []] == [out / "v/deep/c.mp4"]
    assert probe(out / "v/deep/c.mp4").height == 24
    assert data.absent == ("v/bad.mp4",)
    # a second run makes what is not there
    (out / "v/deep/c.mp4").unlink()
    times = (out / "v/a b.mp4").stat().st_mtime_ns
    report = resize_dataset(source, out, short_side=24)
    assert (report.written, report.skipped, len(report.bad)) == (1, 1, 1)
    assert (out / "v/a b.mp4").stat().st_mtime_ns == times
    with pytest.raises(ValueError, match="was begun with"):
        resize_dataset(source, out, short_side=32)


def test_refused(tmp_path, encode, moving):
    encode(tmp_path / "a.mp4", moving[:3])
    for out in (tmp_path, tmp_path / "small", tmp_path.parent):
        with pytest.raises(ValueError, match="contain one another"):
            resize_dataset(tmp_path, out)
    with pytest.raises(ValueError, match="is no folder"):
        resize_dataset(tmp_path / "a.mp4", tmp_path / "x")


def test_a_failure_leaves_nothing(tmp_path, encode, moving, monkeypatch):
    source = encode(tmp_path / "a.mp4", moving)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(source.read_bytes()[:-1000])

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    with pytest.raises(VideoError):
        resize_video(bad, tmp_path / "out/b.mp4", 24, 20)
    monkeypatch.setattr(module, "_small", fail)
    with pytest.raises(OSError, match="disk full"):
        resize_video(source, tmp_path / "out/b.mp4", 24, 20)
    assert list((tmp_path / "out").iterdir()) == []


def flat(color: tuple[int, int, int], size: tuple[int, int] = (96, 120)) -> np.ndarray:
    return np.full((4, *size, 3), color, np.uint8)


@pytest.mark.parametrize(("turn", "shape"), [(None, (20, 11)), ((90, False), (11, 20))])
def test_anamorphic_videos_keep_their_shape(tmp_path, encode, turn, shape):
    # 120x96 pixels of 16:11 are shown 20:11
    source = tmp_path / "a.mp4"
    encode(source, flat((90, 60, 30)), turn=turn, pixel_shape=Fraction(16, 11))
    resize_video(source, tmp_path / "b.mp4", 48, 20)
    assert decode_all(tmp_path / "b.mp4").shape == decode_all(source, short_side=48).shape
    with av.open(str(tmp_path / "b.mp4")) as file:
        stream = file.streams.video[0]
        shown = stream.width * stream.sample_aspect_ratio / stream.height
    assert shown == Fraction(*shape)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"colors": (1, 1)}),  # ITU-R BT.709, as most large videos have
        ("a.mp4", {"colors": (9, 1)}),  # BT.2020
        ("a.mp4", {"colors": (6, 2)}),  # the full range, as cameras have
        ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("a.mov", {"codec": "png", "pix_fmt": "rgba"}),
        ("a.mkv", {"codec": "libx264rgb", "pix_fmt": "rgb24"}),
    ],
)
def test_colors_stay(tmp_path, encode, name, options):
    for color in ((200, 30, 60), (20, 200, 90)):
        source = encode(tmp_path / name, flat(color), **options)
        resize_video(source, tmp_path / "b.mp4", 48, 10)
        found, expected = decode_all(tmp_path / "b.mp4").int(), decode_all(source).int()
        assert (found.amax((0, 2, 3)) - expected.amax((0, 2, 3))).abs().max() <= 5
        assert (found.amin((0, 2, 3)) - expected.amin((0, 2, 3))).abs().max() <= 5


def test_lists_behind_links_are_copied_too(tmp_path, encode, moving):
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    (source / "v").mkdir(parents=True)
    elsewhere.mkdir()
    encode(source / "v/a.mp4", moving[:2])
    (elsewhere / "train.txt").write_text(f"{source.resolve()}/v/a.mp4 0\n")
    (source / "lists").symlink_to(elsewhere)
    (source / "gone.txt").symlink_to(tmp_path / "nothing")
    resize_dataset(source, tmp_path / "out", short_side=24)
    assert (tmp_path / "out/lists/train.txt").read_text() == "v/a.mp4 0\n"
