"""Every frame by number is the frame of decoding in order, wherever decoding begins.

Truth is PyAV's own loop over the whole file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from nonlocalnet.data.video.reader import VideoReader

H264 = {
    "closed": "keyint=12:bframes=3",
    "open": "keyint=12:min-keyint=6:bframes=3:open-gop=1:ref=4",
    "pyramid": "keyint=14:bframes=6:b-pyramid=normal:open-gop=1:ref=6",
    "interlaced": "keyint=12:bframes=2:open-gop=1:interlaced=1",
    "sliced": "keyint=12:bframes=3:open-gop=1:bluray-compat=1:slices=4",
    "refresh": "keyint=15:intra-refresh=1",
    "endless": "keyint=infinite:scenecut=0:bframes=3",
}
HEVC = {
    "closed": "keyint=12:open-gop=0:bframes=4",
    "open": "keyint=12:min-keyint=12:open-gop=1:bframes=4",
    "radl": "keyint=12:open-gop=0:radl=2:bframes=4",
    "layers": "keyint=24:open-gop=0:bframes=7:b-adapt=0:temporal-layers=3",
}
MPEG = {
    "b": {"g": "12", "bf": "2"},
    "p": {"g": "12"},
    "closed": {"g": "12", "bf": "2", "flags": "+cgop", "sc_threshold": "1000000000"},
    "interlaced": {"g": "12", "bf": "2", "flags": "+ildct+ilme"},
}
REALTIME = {"deadline": "realtime", "cpu-used": "8"}
LAYERS = "ts_number_layers=3:ts_target_bitrate=100,200,400:ts_rate_decimator=4,2,1:"
LAYERS += "ts_periodicity=4:ts_layer_id=0,2,1,2:ts_layering_mode=3"
VPX = {
    "vp9": ("libvpx-vp9", {"g": "12", "lag-in-frames": "16"}),
    "vp9 live": ("libvpx-vp9", {"g": "12", "aq-mode": "3", **REALTIME}),
    "vp8": ("libvpx", {"g": "12", "lag-in-frames": "16", "auto-alt-ref": "1"}),
    "vp8 layers": ("libvpx", {"g": "16", "ts-parameters": LAYERS, **REALTIME}),
}
AV1 = {"closed": "keyint=12", "forward": "keyint=16:irefresh-type=1"}
OTHERS = [
    ("mov", "rpza", "rgb555le"),  # all its packets are flagged, few restart it
    ("gif", "gif", "rgb8"),
    ("mov", "qtrle", "rgb24"),
    ("flv", "flv", "yuv420p"),
    ("mov", "mjpeg", "yuvj420p"),
    ("avi", "msmpeg4", "yuv420p"),
    ("wmv", "wmv2", "yuv420p"),
    ("avi", "cinepak", "rgb24"),
    ("avi", "snow", "yuv420p"),
    ("apng", "apng", "rgb24"),
    ("mkv", "ffv1", "yuv420p"),
    ("mov", "svq1", "yuv410p"),
    ("flv", "flashsv", "bgr24"),
    ("avi", "zmbv", "bgr0"),
    ("mov", "prores_ks", "yuv422p10le"),
    ("avi", "huffyuv", "yuv422p"),
    ("wmv", "wmv1", "yuv420p"),
]
SVT = {"preset": "12"}
QUIET = "log-level=none"
ALL = [
    *(
        (kind, "libx264", {"x264-params": o})
        for kind, o in product(("mp4", "mkv", "flv", "ts", "avi"), H264.values())
    ),
    *(
        (kind, "libx265", {"x265-params": f"{o}:{QUIET}"})
        for kind, o in product(("mp4", "mkv", "ts"), HEVC.values())
    ),
    *((k, "mpeg2video", o) for k, o in product(("mpg", "ts", "mkv", "mp4", "avi"), MPEG.values())),
    *((k, "mpeg4", o) for k, o in product(("mp4", "mkv", "avi", "ts"), MPEG.values())),
    *((k, "mpeg1video", MPEG["b"]) for k in ("mpg", "mkv")),
    *((k, *o) for k, o in product(("webm", "mkv"), VPX.values())),
    *(
        (k, "libsvtav1", SVT | {"svtav1-params": o})
        for k, o in product(("mp4", "mkv"), AV1.values())
    ),
    *((k, c, {"g": "12", "pix_fmt": f}) for k, c, f in OTHERS),
]
FEW = [
    ("mp4", "libx264", {"x264-params": H264["open"]}),
    ("flv", "libx264", {"x264-params": H264["refresh"]}),
    ("mkv", "libx265", {"x265-params": f"{HEVC['open']}:{QUIET}"}),
    ("mkv", "mpeg2video", MPEG["interlaced"]),
    ("mp4", "mpeg4", MPEG["closed"]),
    ("webm", *VPX["vp8 layers"]),
    ("mkv", "libsvtav1", SVT | {"svtav1-params": AV1["forward"]}),
    ("mov", "rpza", {"g": "12", "pix_fmt": "rgb555le"}),
    ("gif", "gif", {"g": "12", "pix_fmt": "rgb8"}),
]


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """80 frames of 96x128: things pass before a texture that slides, with a flash midway."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 120, (96, 200, 3), dtype=np.uint8)
    frames = np.stack([texture[:, i // 2 : i // 2 + 128] for i in range(80)])
    for i, frame in enumerate(frames):
        frame[20:52, i * 3 % 96 : i * 3 % 96 + 28] = 230
        frame[i * 2 % 66 : i * 2 % 66 + 24, 80:104] = (20, 200, 90)
        if 40 <= i < 43:
            frame[:] = 255 - frame
    return frames


def check(path: Path, whole: np.ndarray) -> None:
    """Compare each frame alone, in an order that goes back and forth, and spread clips."""
    assert len(whole) > 20
    with VideoReader(path) as video:
        assert video.num_frames == len(whole)
        order = [i * 31 % len(whole) for i in range(len(whole))]
        found = [i for i in order if differs(video.frames([i]), whole[[i]])]
    for start in range(0, len(whole) - 16, 7):
        clip = list(range(start, start + 16, 4))
        with VideoReader(path) as video:
            found += clip if differs(video.frames(clip), whole[clip]) else []
    assert found == []


def differs(frames, expected: np.ndarray) -> bool:
    return not np.array_equal(frames.permute(0, 2, 3, 1).numpy(), expected)


def test_the_given_case(tmp_path, encode, in_order):
    frames = np.full((120, 96, 128, 3), 90, np.uint8)
    for i, frame in enumerate(frames):
        frame[24:48, i * 3 % 100 : i * 3 % 100 + 20] = 230
    for name in ("a.mp4", "a.mkv", "a.flv"):
        options = {"x264-params": "keyint=15:intra-refresh=1"}
        path = encode(tmp_path / name, frames, options=options)
        check(path, in_order(path))


def test_encoders_and_containers(tmp_path, encode, in_order, scene):
    compare(tmp_path, encode, in_order, scene[:60], FEW)


def test_what_a_damaged_piece_of_hevc_shows_is_alike(tmp_path, encode, in_order):
    # x265 cuts slices short; the decoder leaves in their place what its memory held before
    rng = np.random.default_rng(1)
    texture = rng.integers(0, 255, (25, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.stack([texture[i // 2 : i // 2 + 96, i : i + 128] for i in range(100)])
    frames = np.clip(frames + rng.integers(-6, 7, frames.shape), 0, 255).astype(np.uint8)
    options = {"x265-params": f"crf=24:keyint=15:bframes=3:open-gop=0:ref=3:slices=3:{QUIET}"}
    path = encode(tmp_path / "a.mkv", frames, "libx265", options)
    check(path, in_order(path))


@pytest.mark.slow
def test_all_encoders_and_containers(tmp_path, encode, in_order, scene):
    compare(tmp_path, encode, in_order, scene, ALL)


def compare(folder: Path, encode, in_order, frames: np.ndarray, files: list) -> None:
    for i, (kind, codec, options) in enumerate(files):
        options = dict(options)
        pixels = options.pop("pix_fmt", "yuv420p")
        path = encode(folder / f"{i}.{kind}", frames, codec, options, pix_fmt=pixels)
        check(path, in_order(path))


# of a video cut from a stream, some first frames lean on what is gone: they are not shown
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("mp4", "libx264", {"x264-params": H264["refresh"]}),
        ("mkv", "libx264", {"x264-params": H264["pyramid"]}),
        ("mkv", "libx265", {"x265-params": f"{HEVC['open']}:{QUIET}"}),
        ("ts", "libx265", {"x265-params": f"{HEVC['radl']}:{QUIET}"}),
        ("mkv", "mpeg2video", MPEG["b"]),
        ("ts", "mpeg2video", MPEG["closed"]),
    ],
)
def test_videos_cut_from_a_stream(tmp_path, encode, in_order, scene, name, codec, options):
    source = encode(tmp_path / f"a.{name}", scene, codec, options)
    path = remux([source], tmp_path / f"b.{name}", lambda i, data: None if i < 17 else data)
    check(path, in_order(path))


@pytest.mark.parametrize("later", [0, 500])
def test_streams_that_were_joined(tmp_path, encode, in_order, moving, later):
    # at the seam FFmpeg marks a whole packet as corrupt, since the packets' counter starts again
    options = {"x264-params": H264["closed"]}
    parts = [
        encode(tmp_path / f"{i}.ts", moving[i : i + 13], options=options, pts=range(at, at + 13))
        for i, at in ((0, later), (13, 0))
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    whole = in_order(path)
    assert len(whole) == 26
    check(path, whole)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": H264["open"]}),
        ("libx265", {"x265-params": f"{HEVC['open']}:{QUIET}"}),
        ("mpeg4", MPEG["b"]),
        ("libsvtav1", SVT | {"svtav1-params": AV1["forward"]}),
    ],
)
def test_a_file_that_calls_all_its_frames_key(tmp_path, encode, in_order, scene, codec, options):
    path = encode(tmp_path / "a.mp4", scene[:60], codec, options)
    data = path.read_bytes()
    assert data.count(b"stss") == 1  # the table of key frames; without it, all are
    path.write_bytes(data.replace(b"stss", b"free"))
    check(path, in_order(path))


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_parameter_sets_that_change_midway(tmp_path, encode, in_order, scene, name):
    # two encodings in one stream; only the first packet of the second brings its parameter sets
    parts = [
        encode(tmp_path / f"{i}.mp4", scene[i : i + 40], options={"x264-params": x})
        for i, x in ((0, H264["closed"]), (40, "keyint=12:cabac=0:8x8dct=0:ref=1:crf=40"))
    ]
    header = header_of(parts[1])
    sets, place = [], 6
    for count in (1, 1):  # one of either kind, ISO/IEC 14496-15, 5.2.4.1
        size = int.from_bytes(header[place : place + 2], "big")
        sets.append(bytes(2) + header[place : place + 2 + size])
        place += 2 + size + count
    path = remux(parts, tmp_path / name, lambda i, d: b"".join(sets) + d if i == 40 else d)
    check(path, in_order(path))


def test_damage_is_repaired_alike(tmp_path, encode, in_order, scene):
    # what a decoder puts where data is damaged depends on what it decoded before
    def damage(i: int, data: bytes) -> bytes:
        middle = len(data) // 2
        other = bytes(255 - byte for byte in data[middle : middle + 20])
        return data[:middle] + other + data[middle + 20 :] if i in (24, 40) else data

    for name, codec in (("a.mkv", "mpeg2video"), ("b.mkv", "mpeg4"), ("c.flv", "flv")):
        source = encode(tmp_path / name, scene, codec, MPEG["p"])
        path = remux([source], tmp_path / f"damaged_{name}", damage)
        assert not np.array_equal(in_order(path), in_order(source))
        check(path, in_order(path))


def header_of(path: Path) -> bytes:
    with av.open(str(path)) as file:
        return bytes(file.streams.video[0].codec_context.extradata)


def remux(sources: list[Path], target: Path, change: Callable[[int, bytes], bytes | None]) -> Path:
    """Copy packets into one stream; change(i, data) may drop one (None) or give other bytes."""
    with av.open(str(sources[0])) as first, av.open(str(target), "w") as file:
        stream = file.add_stream_from_template(first.streams.video[0])
        count = start = 0
        for source in sources:
            end = start
            with av.open(str(source)) as part:
                for packet in part.demux(video=0):
                    if not packet.size:
                        continue
                    data = change(count, bytes(packet))
                    count += 1
                    end = max(end, start + packet.pts + packet.duration)
                    if data is None:
                        continue
                    new = av.Packet(data)
                    new.pts, new.dts = packet.pts + start, packet.dts + start
                    new.time_base, new.duration = packet.time_base, packet.duration
                    new.is_keyframe, new.stream = packet.is_keyframe, stream
                    file.mux(new)
            start = end
    return target


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux only")
def test_encoding_leaves_the_priority_of_the_thread(tmp_path, encode, moving):
    encode(tmp_path / "a.mkv", moving[:2], "libsvtav1")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
