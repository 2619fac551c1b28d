"""One file of every kind through every entry: none crashes, hangs or leaks; bad ones say why.

The entries are `probe`, `decode`, training and test items of a `VideoDataset`, and the check.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.check import CheckReport, check_dataset, check_file
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import VideoRecord, read_dataset, read_entries
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.packs.write import pack_dataset
from nonlocalnet.data.transforms import TestTransform, TrainTransform
from nonlocalnet.data.video.reader import VideoError, VideoReader, decode, decode_all, probe
from nonlocalnet.runtime.isolated import Failure, run_isolated

TIME_LIMIT = 60.0  # seconds a file, which takes a few at most: other work may share the cores
CLIP = ClipSpec(4, 2)

# name: frames, height, width as shown
GOOD = {
    "plain.mp4": (40, 48, 64),
    "an_mp4.txt": (40, 48, 64),
    "a_webm.mp4": (12, 48, 64),
    "one_frame.mp4": (1, 48, 64),
    "rotated.mp4": (12, 64, 48),
    "mirrored.mp4": (12, 48, 64),
    "odd_sizes.webm": (12, 47, 63),
    "smaller_than_the_crop.mp4": (12, 6, 8),
    "ten_bits.mp4": (12, 48, 64),
    "gray.mkv": (12, 48, 64),
    "variable_rate.mp4": (12, 48, 64),
    "interlaced.mp4": (12, 48, 64),
    "interlaced.mpg": (12, 48, 64),
    "very_wide.mp4": (2, 16, 16000),
    "larger_midway.webm": (12, 48, 64),
    "smaller_midway.webm": (12, 96, 128),
    "header_of_30000.mp4": (12, 48, 64),  # the coded data knows better
}
# name: what the error says
BAD = {
    "zero_bytes.mp4": "the file is empty",
    "text.mp4": "not a readable video",
    "text.txt": "a text file",
    "png.mp4": "a picture, not a video",
    "jpeg.mp4": "a picture, not a video",
    "picture.jpg": "a picture, not a video",
    "sound.mp4": "no video stream",
    "cut_before_its_table.mp4": "not a readable video",
    "header_of_30000.avi": "no frame size, or an impossible one",
    "header_of_10000.avi": "frames of 10000x8000 are beyond the limit",
    "coded_30000.avi": "decoding fails after 0 of 3 frames",
    "coded_16383.webm": "decoding fails after 0 of 3 frames",
    "random_bytes.mkv": "not a readable video",
}
CUT = [f"cut_at_{n}.{kind}" for kind in ("mp4", "mkv", "ts", "avi") for n in (20, 50, 80, 99)]
LEAKS = ["good.mp4", "in_order.avi", "cut.mp4", "damaged.mp4", "header_of_30000.avi", "jpeg.mp4"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, encode, sound, moving) -> Path:
    """A folder of all the files above."""
    root = tmp_path_factory.mktemp("corpus")
    some, large = moving[:12], moving[:12].repeat(2, 1).repeat(2, 2)
    plain = encode(root / "plain.mp4", moving).read_bytes()
    (root / "an_mp4.txt").write_bytes(plain)
    encode(root / "a.webm", some, "libvpx-vp9").rename(root / "a_webm.mp4")
    encode(root / "one_frame.mp4", some[:1])
    encode(root / "rotated.mp4", some, turn=(90, False))
    encode(root / "mirrored.mp4", some, turn=(0, True))
    encode(root / "odd_sizes.webm", some[:, :47, :63], "libvpx-vp9")
    encode(root / "smaller_than_the_crop.mp4", some[:, :6, :8])
    encode(root / "ten_bits.mp4", some, pix_fmt="yuv420p10le")
    encode(root / "gray.mkv", some, "ffv1", pix_fmt="gray")
    encode(root / "variable_rate.mp4", some, pts=[i * i for i in range(12)], rate=100)
    encode(root / "interlaced.mp4", some, options={"x264-params": "interlaced=1:tff=1"})
    encode(root / "interlaced.mpg", some, "mpeg2video", {"flags": "+ildct+ilme"})
    encode(root / "very_wide.mp4", np.zeros((2, 16, 16000, 3), np.uint8))
    small, big = (encode(root / f"{f.shape[1]}.webm", f[:6], "libvpx-vp9") for f in (some, large))
    join([small, big], root / "larger_midway.webm")
    join([big, small], root / "smaller_midway.webm")

    (root / "zero_bytes.mp4").write_bytes(b"")
    for name in ("text.mp4", "text.txt"):
        (root / name).write_bytes(b"no video\n" * 99)
    encode(root / "a.png", some[:1], "png", pix_fmt="rgb24").rename(root / "png.mp4")
    jpeg = encode(root / "picture.jpg", some[:1], "mjpeg", pix_fmt="yuvj420p").read_bytes()
    (root / "jpeg.mp4").write_bytes(jpeg)
    sound(root / "sound.mp4")
    (root / "cut_before_its_table.mp4").write_bytes(plain[: len(plain) // 2])
    (root / "random_bytes.mkv").write_bytes(np.random.default_rng(0).bytes(9000))

    # sizes that the file only claims
    data = encode(root / "header_of_30000.mp4", some).read_bytes()
    place = data.index(b"avc1", data.index(b"stsd")) + 28
    patch(root / "header_of_30000.mp4", data, place, (30000, 30000), 2, "big")
    data = encode(root / "raw.avi", some[:3], "rawvideo", pix_fmt="bgr24").read_bytes()
    patch(root / "header_of_30000.avi", data, data.index(b"strf") + 12, (30000, 30000), 4)
    patch(root / "header_of_10000.avi", data, data.index(b"strf") + 12, (10000, 8000), 4)
    data = encode(root / "raw.avi", some[:3], "mjpeg", pix_fmt="yuvj420p").read_bytes()
    patch(root / "coded_30000.avi", data, data.index(b"\xff\xc0") + 5, (30000, 30000), 2, "big")
    data = encode(root / "raw.webm", some[:3], "libvpx").read_bytes()
    start_code = data.index(b"\x9d\x01\x2a")  # RFC 6386 section 9.1
    patch(root / "coded_16383.webm", data, start_code + 3, (16383, 16383), 2)

    for kind in ("mp4", "mkv", "ts", "avi"):
        options = {"movflags": "faststart"} if kind == "mp4" else {}
        whole = encode(root / f"whole.{kind}", moving, options={"bf": "0"}, container=options)
        data = whole.read_bytes()
        for percent in (20, 50, 80, 99):
            (root / f"cut_at_{percent}.{kind}").write_bytes(data[: len(data) * percent // 100])

    frames = moving[:6].repeat(2, 1).repeat(2, 2)  # 96 x 128: 36 KiB in RGB
    encode(root / "in_order.avi", frames, options={"bf": "2"})
    fast = {"movflags": "faststart"}
    data = encode(root / "good.mp4", frames, options={"bf": "0"}, container=fast).read_bytes()
    most = len(data) * 7 // 10
    (root / "cut.mp4").write_bytes(data[:most])
    (root / "damaged.mp4").write_bytes(data[:most] + bytes(len(data) - most))
    return root


def patch(path: Path, data: bytes, place: int, sizes: tuple, width: int, order="little") -> None:
    """Overwrite two numbers of `width` bytes each."""
    numbers = b"".join(n.to_bytes(width, order) for n in sizes)
    path.write_bytes(data[:place] + numbers + data[place + len(numbers) :])


def join(parts: list[Path], path: Path) -> None:
    """Put the packets of videos of one codec into one stream, one after the other."""
    with av.open(str(path), "w") as target:
        stream, start = None, 0
        for part in parts:
            with av.open(str(part)) as file:
                stream = stream or target.add_stream_from_template(file.streams.video[0])
                end = start
                for packet in file.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = packet.pts + start
                        end = packet.pts + packet.duration
                        packet.stream = stream
                        target.mux(packet)
                start = end


def entries(path: Path) -> dict[str, object]:
    """What each entry makes of a file: a shape, or the sentence of its VideoError."""
    record = VideoRecord(path, (0,), path.name)
    good = VideoRecord(path.with_name("plain.mp4"), (0,), "plain")
    train = VideoDataset(
        [record, good], 1, CLIP, TrainTransform(crop=16, short_side=16), train=True, max_bad=0.5
    )
    views = TestTransform(crop=16, short_side=16, num_crops=3)
    test = VideoDataset([record], 1, CLIP, views, train=False, num_clips=2)

    def described() -> tuple[int, ...]:
        info = probe(path)
        return info.num_frames, info.height, info.width

    def training() -> tuple:
        clip, _, index = train[0]
        return (index, *clip.shape)

    def checked() -> tuple:
        report = check_file(path)
        if report.error:
            raise VideoError(path, report.error)
        return report.frames, report.damage

    calls: dict[str, Callable[[], object]] = {
        "probe": described,
        "decode_all": lambda: tuple(decode_all(path).shape),
        "decode": lambda: tuple(decode(path, [probe(path).num_frames - 1, 0]).shape),
        "train": training,
        "test": lambda: tuple(test[0][0].shape),
        "check": checked,
    }
    found: dict[str, object] = {}
    for name, call in calls.items():
        try:
            found[name] = call()
        except VideoError as error:
            found[name] = str(error)
    return found


@pytest.fixture(scope="module")
def checked(corpus) -> CheckReport:
    """The check of good and bad files; first of all, for it has the processes import torch once."""
    names = [*GOOD, *BAD]
    (corpus / "train.txt").write_text("".join(f"{name} 0\n" for name in names))
    return check_dataset(read_dataset(corpus / "train.txt"), time_limit=TIME_LIMIT)


@pytest.fixture(scope="module")
def found(corpus, checked) -> dict[tuple[Callable, str], object]:
    """What `entries` and `left_behind` say, from a process that may crash or hang without harm."""
    keys = [(entries, name) for name in (*GOOD, *BAD, *CUT)]
    keys += [(left_behind, name) for name in LEAKS]
    items = [(function, corpus / name) for function, name in keys]
    results = dict(run_isolated(call, items, workers=1, time_limit=TIME_LIMIT))
    failure = {keys[i]: result for i, result in results.items() if isinstance(result, Failure)}
    assert failure == {}  # a crash, a hang, or an error that is no VideoError
    return {keys[i]: result for i, result in results.items()}


def call(function: Callable, path: Path) -> object:
    return function(path)


@pytest.fixture(scope="module")
def seen(found) -> dict[str, dict[str, object]]:
    return {name: result for (function, name), result in found.items() if function is entries}


def test_packed_files_give_the_same_frames_and_errors(corpus, tmp_path):
    names = [*GOOD, *BAD, *CUT]
    (corpus / "all.txt").write_text("".join(f"{name} 0\n" for name in names))
    pack_dataset(corpus / "all.txt", read_entries(corpus / "all.txt"), tmp_path / "packed")
    (corpus / "all.txt").unlink()

    def read(path: Path | PackedVideo) -> object:
        try:
            return decode_all(path)
        except VideoError as error:
            return error.reason

    for record in read_dataset(tmp_path / "packed").train:
        loose, packed = read(corpus / record.name), read(record.path)
        if isinstance(loose, str):
            assert packed == loose, record.name
        else:
            assert torch.equal(packed, loose), record.name


@pytest.mark.parametrize("name", GOOD)
def test_good_files(seen, name):
    frames, height, width = GOOD[name]
    found = seen[name]
    assert found["probe"] == (frames, height, width)
    assert found["decode_all"] == (frames, 3, height, width)
    assert found["decode"] == (2, 3, height, width)
    assert found["train"] == (0, 3, 4, 16, 16)
    assert found["test"] == (6, 3, 4, 16, 16)
    assert found["check"][0] == frames


@pytest.mark.parametrize("name", BAD)
def test_bad_files(seen, corpus, name):
    found = seen[name]
    assert found.pop("train") == (1, 3, 4, 16, 16)  # the other video takes its place
    assert len(found) == 5
    for said in found.values():
        assert str(said).startswith(f"{corpus / name}: ")
        assert BAD[name] in str(said)
        assert "\n" not in str(said)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "avi"])
def test_cut_files_keep_what_is_there(seen, corpus, in_order, kind):
    whole = in_order(corpus / f"whole.{kind}")
    counts = []
    for name in (name for name in CUT if name.endswith(kind)):
        found = seen[name]
        if isinstance(found["probe"], str):  # not even the first frame is whole
            assert name.startswith("cut_at_20")
            assert all("\n" not in str(said) for said in found.values())
            assert re.search("not a readable video|holds no frames", found["probe"])
            continue
        counts.append(found["probe"][0])
        assert found["decode_all"] == (counts[-1], 3, 48, 64)
        assert found["check"][0] == counts[-1]
        assert found["train"] == (0, 3, 4, 16, 16)
        assert found["test"] == (6, 3, 4, 16, 16)
        # without B-frames the packets there are the first frames; MPEG-TS cuts the last one
        sound = counts[-1] - (kind == "ts")
        frames = decode_all(corpus / name).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(frames[:sound], whole[:sound])
    assert len(counts) >= 3
    assert counts == sorted(set(counts))
    assert counts[-1] >= 38


def test_the_check_sorts_the_corpus(checked):
    unreadable = {Path(f.path).name for f in checked.findings if f.kind == "unreadable"}
    assert unreadable == set(BAD)
    good = {record.path.name for record in checked.good["train"]}
    assert good == set(GOOD) - {"an_mp4.txt", "header_of_30000.mp4"}  # a copy, and a false header


@pytest.mark.parametrize("name", ["larger_midway.webm", "smaller_midway.webm"])
def test_a_size_that_changes_midway_changes_no_answer(corpus, name):
    with VideoReader(corpus / name) as video:
        shape = tuple(video.frames([0]).shape)
        assert tuple(video.frames([11]).shape) == shape
        assert tuple(video.frames([0, 11]).shape[1:]) == shape[1:]
        assert tuple(video.frames([11], short_side=24).shape) == (1, 3, 24, 32)


def left_behind(path: Path) -> tuple[int, int]:
    """Open files and bytes more after 240 calls, 60 before them to warm up.

    Not in pytest's own process, which keeps FFmpeg's messages.
    """

    def use(times: int) -> tuple[int, int]:
        for _ in range(times):
            for call in (probe, decode_all, lambda p: decode(p, [4, 1])):
                with contextlib.suppress(VideoError):
                    call(path)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # or what is free, but not given back, counts
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        return len(os.listdir("/proc/self/fd")), resident * os.sysconf("SC_PAGE_SIZE")

    files, memory = use(20)
    files_after, memory_after = use(80)
    return files_after - files, memory_after - memory


@pytest.mark.parametrize("name", LEAKS)
def test_nothing_leaks(found, name):
    files, memory = found[left_behind, name]
    assert files == 0
    assert memory < 6 * 2**20  # a frame a call would be 8.4 MiB
