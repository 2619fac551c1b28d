"""Every file that is no video, or a broken one, ends in one VideoError with a clear sentence."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
from pathlib import Path

import av
import numpy as np
import pytest

from nonlocalnet.data.video import frame_reader
from nonlocalnet.data.video import open as container
from nonlocalnet.data.video.reader import VideoError, decode, decode_all, probe
from nonlocalnet.data.video.write import write_video


def refused(path: Path, said: str) -> None:
    for call in (probe, decode_all, lambda p: decode(p, [0])):
        with pytest.raises(VideoError, match=said) as caught:
            call(path)
        assert str(caught.value) == f"{path}: {caught.value.reason}"
        assert caught.value.path == path
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"hello world\n" * 100, "not a readable video"),
        ("text.txt", b"hello world\n" * 100, "a text file"),  # FFmpeg would render it
        ("zeros.mp4", bytes(4000), "not a readable video"),
        ("noise.avi", random.Random(0).randbytes(5000), "not a readable video"),
        ("list.mp4", b"ffconcat version 1.0\nfile /etc/hostname\n", "not a readable video"),
    ],
)
def test_not_a_video(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, said)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.ffconcat", "ffconcat version 1.0\nfile real.mp4\n"),
        ("upload", "ffconcat version 1.0\nfile real.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9.0,\nreal.mp4\n#EXT-X-ENDLIST\n"),
    ],
)
def test_a_list_shows_no_other_file(tmp_path, name, text):
    write_video(tmp_path / "real.mp4", np.zeros((4, 16, 16, 3), np.uint8))
    (tmp_path / name).write_text(text)
    refused(tmp_path / name, "a list of other files, not a video")


def test_missing_directory_and_pipe(tmp_path):
    refused(tmp_path / "nothing.mp4", "no such file")
    refused(tmp_path, "directory")
    os.mkfifo(tmp_path / "pipe.mp4")
    refused(tmp_path / "pipe.mp4", "not a regular file")


def test_audio_only(tmp_path, sound):
    refused(sound(tmp_path / "a.mp4"), "no video stream")


def test_a_cover_picture_is_no_video(tmp_path, encode, sound, moving):
    picture = encode(tmp_path / "p.png", moving[:1], "png", pix_fmt="rgb24")
    path = tmp_path / "a.mp4"
    with av.open(str(sound(tmp_path / "s.mp4"))) as voices, av.open(str(path), "w") as file:
        voice = file.add_stream_from_template(voices.streams.audio[0])
        cover = file.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(picture.read_bytes())
        packet.stream, packet.pts, packet.dts = cover, 0, 0
        file.mux(packet)
        for packet in voices.demux(voices.streams.audio[0]):
            if packet.size:
                packet.stream = voice
                file.mux(packet)
    with av.open(str(path)) as file:
        assert len(file.streams.video) == 1
    refused(path, "no video stream")


def test_no_frames(tmp_path, encode, moving):
    data = encode(tmp_path / "a.mp4", moving, container={"movflags": "faststart"}).read_bytes()
    path = tmp_path / "b.mp4"
    path.write_bytes(data[: data.index(b"mdat") + 4])  # the table of frames without the frames
    refused(path, "no frames")


def test_index_out_of_range(tmp_path, encode, moving):
    path = encode(tmp_path / "a.mp4", moving)
    for index in (40, -1):
        with pytest.raises(VideoError, match=f"frame {index} is out of range, the video has 40"):
            decode(path, [0, index])


def test_cut_off_without_its_table(tmp_path, encode, moving):
    data = encode(tmp_path / "a.mp4", moving).read_bytes()
    path = tmp_path / "b.mp4"
    path.write_bytes(data[: len(data) // 2])
    refused(path, "not a readable video")


def test_cut_off_behind_its_table(tmp_path, encode, in_order, moving):
    whole = encode(
        tmp_path / "a.mp4", moving, options={"bf": "0"}, container={"movflags": "faststart"}
    )
    data = whole.read_bytes()
    path = tmp_path / "b.mp4"
    path.write_bytes(data[: len(data) * 7 // 10])
    count = probe(path).num_frames
    assert 5 < count < 35
    expected = in_order(whole)[:count]  # without B-frames the packets there are the first frames
    found = decode_all(path).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(VideoError, match=f"has {count} frames .its header announces 40"):
        decode(path, [39])


def test_damage_in_the_middle(tmp_path, encode, in_order, moving):
    whole = encode(tmp_path / "a.mp4", moving, options={"g": "10", "bf": "0", "sc_threshold": "0"})
    with av.open(str(whole)) as file:
        packets = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    data = bytearray(whole.read_bytes())
    position, size = packets[13]
    data[position : position + size] = bytes(size)
    path = tmp_path / "b.mp4"
    path.write_bytes(data)
    with pytest.raises(VideoError, match="decoding fails after 13 of 40 frames"):
        decode_all(path)
    # what lies elsewhere is still right
    found = decode(path, [3, 35]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, in_order(whole)[[3, 35]])


def test_random_damage_never_hangs_or_crashes(tmp_path, encode, moving):
    data = encode(tmp_path / "a.mp4", moving, options={"g": "10"}).read_bytes()
    path = tmp_path / "b.mp4"
    for seed in range(30):
        rng = random.Random(seed)
        broken = bytearray(data)
        for _ in range(rng.choice([1, 20, 200])):
            broken[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(broken)
        with contextlib.suppress(VideoError):  # any other error fails the test
            assert decode_all(path).shape[1] == 3


def test_absurd_size(tmp_path, encode, moving, monkeypatch):
    path = encode(tmp_path / "a.mp4", moving)
    monkeypatch.setattr(container, "MAX_PIXELS", 48 * 64 - 1)

    def never(*arguments: object) -> None:
        raise AssertionError("decoded a frame whose size was to be refused")

    monkeypatch.setattr("nonlocalnet.data.video.reader.index_frames", never)
    refused(path, "frames of 64x48 are beyond the limit of 3,071 pixels")


def test_a_size_that_changes_on_the_way(tmp_path, encode, moving):
    # raw H.264: the second part is another, larger video
    large = np.full((2, 96, 128, 3), 200, np.uint8)
    parts = [encode(tmp_path / "a.h264", moving[:5]), encode(tmp_path / "b.h264", large)]
    path = tmp_path / "c.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = decode_all(path)
    assert frames.shape == (7, 3, 48, 64)  # all at the header's size
    assert (frames[5:].int() - 200).abs().max() <= 3


def test_the_error_survives_processes(tmp_path):
    error = VideoError(tmp_path / "a.mp4", "is empty")
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.reason, str(again)) == (error.path, error.reason, str(error))
    # torch rebuilds an error of a worker from its text
    assert str(VideoError(str(error))) == str(error)


def test_frames_that_memory_does_not_hold_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "wide.mp4"
    write_video(path, np.zeros((3, 16, 640, 3), np.uint8))
    assert decode(path, [0, 1, 2], short_side=8).shape == (3, 3, 8, 320)
    monkeypatch.setattr(frame_reader, "MAX_BYTES", 3 * 3 * 8 * 320)
    assert decode(path, [0, 1, 2], short_side=8).shape == (3, 3, 8, 320)
    for indices, side in (([0, 1, 2], 10), ([0, 0, 1, 2], 8)):
        with pytest.raises(VideoError, match=r"frames of .* pixels take .* are read at a time"):
            decode(path, indices, short_side=side)
