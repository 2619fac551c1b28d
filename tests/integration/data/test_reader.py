from __future__ import annotations

import gc
import random
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from nonlocalnet.data.video import reader as module
from nonlocalnet.data.video.reader import VideoReader, decode, decode_all, probe


def pixels(frames: torch.Tensor) -> np.ndarray:
    return frames.permute(0, 2, 3, 1).numpy()


@pytest.fixture
def count_decoded(monkeypatch):
    """Count the frames decoded after a seek, and the passes from the start."""
    counts = {"frames": 0, "in_order": 0}
    by_stamp, in_order = VideoReader._decode_from, VideoReader._pick_in_order

    def spy_stamp(self, key, wanted):
        for frame in by_stamp(self, key, wanted):
            counts["frames"] += 1
            yield frame

    def spy_order(self, *arguments):
        counts["in_order"] += 1
        return in_order(self, *arguments)

    monkeypatch.setattr(VideoReader, "_decode_from", spy_stamp)
    monkeypatch.setattr(VideoReader, "_pick_in_order", spy_order)
    return counts


GOP = {"g": "10", "bf": "2", "x264-params": "scenecut=0"}
OPEN_GOP = {"x264-params": "keyint=10:min-keyint=10:bframes=3:open-gop=1:scenecut=0"}
PYRAMID = {"x264-params": "keyint=30:bframes=8:b-adapt=0:b-pyramid=normal:ref=5"}
FLAT = {"x264-params": "keyint=30:bframes=3:b-adapt=0:b-pyramid=none:weightp=2"}
REFRESH = {"x264-params": "keyint=10:intra-refresh=1:scenecut=0"}


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", GOP),
        ("a.mkv", "libx264", GOP),
        ("a.avi", "libx264", GOP),
        ("a.ts", "libx264", GOP),
        ("a.h264", "libx264", GOP),  # no time stamps at all
        ("open.mp4", "libx264", OPEN_GOP),
        ("open.ts", "libx264", OPEN_GOP),
        ("refresh.mp4", "libx264", REFRESH),
        ("pyramid.mp4", "libx264", PYRAMID),
        ("flat.mp4", "libx264", FLAT),
        ("flat.mkv", "libx264", FLAT),
        ("a5.mp4", "libx265", {"x265-params": "keyint=30:bframes=4:log-level=none"}),
        ("a4.avi", "mpeg4", {"g": "10", "bf": "2"}),
        ("a4.mp4", "mpeg4", {"g": "10", "bf": "2"}),
        ("a.mpg", "mpeg2video", {"g": "10", "bf": "2"}),
        ("a.webm", "libvpx-vp9", {"g": "12", "lag-in-frames": "16"}),
        ("a8.webm", "libvpx", {"g": "12", "lag-in-frames": "16"}),
    ],
)
def test_any_choice_equals_decoding_everything(
    tmp_path, encode, in_order, moving, name, codec, options
):
    path = encode(tmp_path / name, moving, codec, options)
    whole = in_order(path)
    assert len(whole) == len(moving)
    assert probe(path).num_frames == len(moving)
    np.testing.assert_array_equal(pixels(decode_all(path)), whole)
    rng = random.Random(0)
    for _ in range(8):
        indices = [rng.randrange(len(whole)) for _ in range(rng.choice([1, 3, 6]))]
        np.testing.assert_array_equal(pixels(decode(path, indices)), whole[indices])


def test_frames_are_the_ones_that_were_written(tmp_path, encode, moving):
    # not only equal to another decoding: close to the source, in its order, RGB not BGR
    path = encode(tmp_path / "a.mp4", moving, options={**GOP, "crf": "1"})
    found = pixels(decode(path, [30, 2, 2, 17])).astype(int)
    for image, i in zip(found, [30, 2, 2, 17], strict=True):
        distance = [np.abs(image.mean((0, 1)) - frame.mean((0, 1))).sum() for frame in moving]
        assert int(np.argmin(distance)) == i
    red = np.zeros((4, 32, 32, 3), np.uint8)
    red[..., 0] = 200
    image = decode(encode(tmp_path / "red.mp4", red), [3])
    assert image.dtype == torch.uint8
    assert image.shape == (1, 3, 32, 32)
    assert image[0, 0].float().mean() > 180
    assert image[0, 1:].float().mean() < 20


def test_no_decoded_frame_outlives_its_use(tmp_path, encode, moving):
    """Frames in circles would stay until Python looks for such, and it does not see their size."""

    def alive():
        return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())

    video = encode(tmp_path / "a.mp4", moving, "libx264", GOP)
    gc.collect()
    gc.disable()
    try:
        before = alive()
        decode_all(video)
        decode(video, [0, 9, 30])
        assert alive() == before
    finally:
        gc.enable()


def test_all_real_clips(shared, in_order):
    paths = sorted(p for p in (shared / "data/clips").iterdir() if p.suffix in (".avi", ".mp4"))
    assert len(paths) == 14
    rng = random.Random(0)
    for path in paths[:3] + paths[6:8] + paths[-2:]:
        whole = in_order(path)
        indices = [rng.randrange(len(whole)) for _ in range(4)]
        np.testing.assert_array_equal(pixels(decode(path, indices)), whole[indices])


def test_real_lengths(shared):
    # labels.csv was written with another tool
    lines = (shared / "data/clips/labels.csv").read_text().splitlines()[1:]
    for line in lines:
        name, *_, width, height, fps, frames, _size = line.replace(", ", " ").split(",")
        info = probe(shared / "data/clips" / name)
        assert (info.num_frames, info.width, info.height) == (int(frames), int(width), int(height))
        assert info.fps == pytest.approx(float(fps), rel=1e-3)
        assert info.duration == pytest.approx(int(frames) / float(fps), rel=1e-3)


def test_grid(shared, in_order):
    for name in ("bbaf2n", "bbal7s", "bgbo1a"):
        path = shared / f"data/grid/videos/{name}.mp4"
        whole = in_order(path)
        assert probe(path) == module.VideoInfo(75, 112, 112, 25.0, 3.0)
        np.testing.assert_array_equal(pixels(decode_all(path)), whole)
        np.testing.assert_array_equal(pixels(decode(path, [74, 0, 50, 49])), whole[[74, 0, 50, 49]])


def test_only_the_stretch_needed_is_decoded(tmp_path, encode, moving, count_decoded):
    # key frames at 0, 10, 20, 30
    path = encode(tmp_path / "a.mp4", moving, options=GOP)
    decode(path, [32])
    assert count_decoded["frames"] == 3  # 30, 31, 32
    count_decoded["frames"] = 0
    decode(path, [1, 31])
    assert count_decoded["frames"] == 4  # 0, 1, then 30, 31
    count_decoded["frames"] = 0
    decode(path, [8, 11])
    assert count_decoded["frames"] == 12  # 0 to 11 in one go
    assert count_decoded["in_order"] == 0


def test_frames_that_no_other_needs_are_not_decoded(tmp_path, encode, moving, count_decoded):
    # P every fourth frame, and between them B-frames that nothing refers to
    path = encode(tmp_path / "a.mp4", moving, options=FLAT)
    decode(path, [22])  # 0, 4, ..., 20, 22 and 24
    assert count_decoded["frames"] <= 8
    assert count_decoded["in_order"] == 0


def test_guessed_time_stamps_are_not_believed(shared, count_decoded):
    path = shared / "data/clips/mmaction2_tests_test.avi"
    with av.open(str(path)) as file:
        stamps = [f.pts for f in file.decode(video=0)]
    assert stamps != sorted(stamps)  # what makes this file special
    decode(path, [32])
    assert count_decoded == {"frames": 0, "in_order": 1}


def test_variable_frame_rate(tmp_path, encode, in_order, moving):
    steps = np.random.default_rng(1).integers(1, 9, len(moving))
    pts = np.cumsum(steps).tolist()
    path = encode(tmp_path / "a.mp4", moving, options=GOP, pts=pts, rate=100)
    whole = in_order(path)
    np.testing.assert_array_equal(pixels(decode(path, [39, 0, 23])), whole[[39, 0, 23]])
    info = probe(path)
    assert info.num_frames == 40
    assert info.duration == pytest.approx((pts[-1] - pts[0]) / 100, abs=0.1)


def test_one_frame(tmp_path, encode, in_order, moving):
    path = encode(tmp_path / "a.mp4", moving[:1])
    np.testing.assert_array_equal(pixels(decode(path, [0, 0, 0])), in_order(path)[[0, 0, 0]])
    assert probe(path).num_frames == 1


def test_odd_sizes(tmp_path, encode, in_order, moving):
    path = encode(tmp_path / "a.mp4", moving[:5, :47, :63], pix_fmt="yuv444p")
    whole = in_order(path)
    assert whole.shape[1:] == (47, 63, 3)
    np.testing.assert_array_equal(pixels(decode(path, [4, 1])), whole[[4, 1]])


@pytest.mark.parametrize(
    ("degrees", "mirrored", "upright"),
    [
        (90, False, lambda x: np.rot90(x, 1)),  # counterclockwise, as libavutil defines it
        (180, False, lambda x: np.rot90(x, 2)),
        (-90, False, lambda x: np.rot90(x, 3)),
        (0, True, lambda x: x[:, ::-1]),
    ],
)
def test_display_matrix(tmp_path, encode, in_order, moving, degrees, mirrored, upright):
    path = encode(tmp_path / "a.mp4", moving[:4], turn=(degrees, mirrored))
    stored = in_order(path)
    expected = np.stack([upright(frame) for frame in stored[[3, 1]]])
    np.testing.assert_array_equal(pixels(decode(path, [3, 1])), expected)
    info = probe(path)
    assert (info.height, info.width) == expected.shape[1:3]
    assert min(decode(path, [0], short_side=24).shape[2:]) == 24


def test_short_side_scales_down_only(tmp_path, encode, moving):
    path = encode(tmp_path / "a.mp4", moving[:6])  # 48 x 64
    assert decode(path, [0, 5], short_side=24).shape == (2, 3, 24, 32)
    assert decode(path, [0], short_side=100).shape == (1, 3, 48, 64)
    small = decode(path, [5], short_side=12).float().mean((2, 3))
    torch.testing.assert_close(small, decode(path, [5]).float().mean((2, 3)), rtol=0, atol=3)


def test_short_side_on_a_flat_picture(tmp_path, encode):
    half = np.full((2, 64, 96, 3), 30, np.uint8)
    half[:, :, 48:] = 220
    path = encode(tmp_path / "a.mp4", half, options={"crf": "1"})
    small = decode(path, [1], short_side=32)
    assert small.shape == (1, 3, 32, 48)
    assert (small[..., :22].int() - 30).abs().max() <= 4
    assert (small[..., 26:].int() - 220).abs().max() <= 4


def test_decode_all_stops_at_max_frames(tmp_path, encode, in_order, moving):
    path = encode(tmp_path / "a.mp4", moving)
    np.testing.assert_array_equal(pixels(decode_all(path, max_frames=7)), in_order(path)[:7])


def test_threads_change_nothing(tmp_path, encode, in_order, moving):
    path = encode(tmp_path / "a.mp4", moving, options=GOP)
    np.testing.assert_array_equal(pixels(decode(path, [35, 3], threads=2)), in_order(path)[[35, 3]])


def test_a_closed_reader_says_so(tmp_path, encode, moving):
    with VideoReader(encode(tmp_path / "a.mp4", moving)) as reader:
        assert reader.num_frames == 40
    with pytest.raises(ValueError, match="closed"):
        reader.frames([0])


def test_no_indices_is_an_error(tmp_path, encode, moving):
    with pytest.raises(ValueError, match="indices is empty"):
        decode(encode(tmp_path / "a.mp4", moving), [])


def remux(source: Path, target: Path, change) -> Path:
    """Copy packets; change(i, packet) may drop one (None) or give other bytes."""
    with av.open(str(source)) as a, av.open(str(target), "w") as b:
        stream = a.streams.video[0]
        copy = b.add_stream_from_template(stream)
        for i, packet in enumerate(a.demux(stream)):
            data = change(i, packet) if packet.size else None
            if data is None:
                continue
            new = av.Packet(data)
            new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
            new.is_keyframe, new.duration = packet.is_keyframe, packet.duration
            new.stream = copy
            b.mux(new)
    return target


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.ts"])
def test_a_video_cut_in_the_middle_of_a_stretch(tmp_path, encode, in_order, moving, name):
    whole = encode(tmp_path / "a.mp4", moving, options=GOP)
    path = remux(whole, tmp_path / name, lambda i, p: None if i < 13 else bytes(p))
    expected = in_order(path)
    assert len(expected) == 20  # from the key frame 20 on: the rest of its stretch is lost
    assert probe(path).num_frames == 20
    np.testing.assert_array_equal(pixels(decode(path, [19, 0, 7])), expected[[19, 0, 7]])


def test_hidden_vp8_frames_are_not_counted(tmp_path, encode, in_order, moving):
    def hide(i, packet):
        data = bytearray(packet)
        if i in (5, 17):
            data[0] &= 0xEF  # show_frame
        return bytes(data)

    source = encode(tmp_path / "a.webm", moving, "libvpx", {"g": "12"})
    path = remux(source, tmp_path / "b.webm", hide)
    expected = in_order(path)
    assert len(expected) == 38
    assert probe(path).num_frames == 38
    np.testing.assert_array_equal(pixels(decode(path, [37, 5, 16])), expected[[37, 5, 16]])


def test_frames_before_an_edit_list_starts_are_not_counted(tmp_path, encode, in_order, moving):
    data = bytearray(encode(tmp_path / "a.mp4", moving, options=GOP).read_bytes())
    start = data.index(b"elst") + 16  # media time of the first edit, in 1/12800 s
    begin = int.from_bytes(data[start : start + 4], "big") + 13 * 512
    data[start : start + 4] = begin.to_bytes(4, "big")
    path = tmp_path / "b.mp4"
    path.write_bytes(data)
    expected = in_order(path)
    assert len(expected) == 27
    assert probe(path).num_frames == 27
    np.testing.assert_array_equal(pixels(decode(path, [26, 0, 11])), expected[[26, 0, 11]])
