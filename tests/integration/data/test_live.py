"""Frames of servers on the loopback and of growing files, as they arrive."""

import contextlib
import functools
import gc
import itertools
import os
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import pytest

from live_servers import PACKETS, http, parts, plain, rtsp, send_udp, serve, transport_stream
from nonlocalnet.data.video import live
from nonlocalnet.data.video.live import LiveReader
from nonlocalnet.data.video.open import VideoError
from nonlocalnet.data.video.reader import decode_all
from nonlocalnet.data.video.source import Source

COUNT = 30


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A transport stream of 30 frames at 25 a second, and its frames as decoded from a file."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (COUNT, 6, 8, 3), dtype=np.uint8)
    data = transport_stream(small.repeat(8, 1).repeat(8, 2))
    path = tmp_path_factory.mktemp("live") / "v.ts"
    path.write_bytes(data)
    return data, decode_all(path).permute(0, 2, 3, 1).numpy()


@pytest.fixture
def soon(monkeypatch):
    """Connections are tried again soon."""
    monkeypatch.setattr(live, "FIRST_PAUSE", 0.02)


def reader_of(place, **options):
    return LiveReader(Source.parse(str(place)), **{"idle": 5} | options)


def read(place, **options):
    """All frames of a source, the reader, and what it said; and the error at its end."""
    said, found, error = [], [], None
    with reader_of(place, tell=said.append, **options) as reader:
        try:
            found.extend(reader.frames())
        except VideoError as problem:
            error = problem
    return found, reader, said, error


def check_same(found, images, first=0):
    """Frames are those of the file, 1/25 s apart."""
    assert [len(found), found[0].image.shape] == [len(images), images[0].shape]
    for k, frame in enumerate(found):
        np.testing.assert_array_equal(frame.image, images[k])
        assert frame.time == pytest.approx(first + k / 25, abs=1e-4)


@pytest.mark.parametrize("greet", [http, plain, rtsp])
def test_a_server_gives_the_frames_of_the_file(video, soon, greet):
    data, images = video
    scheme = {http: "http", plain: "tcp", rtsp: "rtsp"}[greet]
    with serve(data, greet=greet) as port:
        found, reader, _, error = read(f"{scheme}://127.0.0.1:{port}/live", retries=0)
    # in RTP, the last frame is complete when the next one begins
    check_same(found, images[:-1] if greet is rtsp else images)
    assert "127.0.0.1" in str(error)
    assert "lost (" in str(error)
    assert (reader.counts.losses, reader.counts.dropped, reader.counts.damaged) == (1, 0, 0)


def test_udp(video):
    """A client that comes in the middle begins at a key frame."""
    data, images = video
    with send_udp(data, pace=0.003) as port, reader_of(f"udp://127.0.0.1:{port}") as reader:
        frames = reader.frames()
        found = [next(frames) for _ in range(10)]
    starts = [k for k, image in enumerate(images) if np.array_equal(image, found[0].image)]
    assert starts
    assert starts[0] % 5 == 0


def test_a_connection_that_breaks_is_made_again(video, soon):
    data, images = video
    half = data[: len(data) // PACKETS // 2 * PACKETS + 77]  # in the middle of a packet
    with serve(half, b"", data) as port:
        found, reader, said, error = read(f"http://me:secret@127.0.0.1:{port}/", retries=3)
    before = [frame for frame in found if frame.part == 0]
    after = [frame for frame in found if frame.part == 1]
    assert len(before) + len(after) == len(found)
    assert 8 < len(before) < 20
    check_same(before[:8], images[:8])
    assert after[0].time >= before[-1].time  # the time without frames counts
    check_same(after, images, first=after[0].time)
    assert reader.counts.losses == 2  # the last one for good
    assert "lost, and not found again (attempts: 3)" in str(error)
    assert [line for line in said if "connected again" in line] == [said[2]]
    waits = [line.split("again in ")[1].split(" s")[0] for line in said if "again in" in line]
    assert waits == ["0.02", "0.04", "0.02", "0.04", "0.08"]
    assert "attempt 1 of 3" in said[0]
    assert not any("secret" in line for line in [*said, str(error)])


def test_garbage_is_counted_and_what_follows_is_right(video, soon):
    data, images = video
    rng = np.random.default_rng(0)
    middle = len(data) // 2
    noise = rng.integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    broken = bytearray(data[middle : middle + 4000])
    broken[::3] = bytes(len(broken[::3]))
    with serve(data[:middle] + noise + broken + data, greet=plain) as port:
        found, *_ = read(f"tcp://127.0.0.1:{port}", retries=0)
    check_same(found[:10], images[:10])
    for frame, image in zip(found[-COUNT:], images, strict=True):
        np.testing.assert_array_equal(frame.image, image)
    assert len(found) < 50


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"no video " * 9999, "cannot be opened"), (b"", "cannot be opened")],
    ids=["garbage", "nothing"],
)
def test_an_address_without_a_video_is_not_tried_again(data, said, soon):
    with serve(data, data) as port:
        found, reader, told, error = read(f"http://me:secret@127.0.0.1:{port}/?key=secret")
    assert (found, told, reader.counts.losses) == ([], [], 0)
    assert said in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("scheme", ["tcp", "http", "rtsp"])
def test_an_address_that_nobody_serves(scheme):
    with serve() as port:
        pass
    *_, error = read(f"{scheme}://me:secret@127.0.0.1:{port}/live")
    assert str(error) == (
        f"{scheme}://***@127.0.0.1:{port}/live: cannot be opened (Connection refused)"
    )


def test_an_address_that_sends_nothing():
    *_, error = read("udp://127.0.0.1:39417", idle=0.1)
    assert "nothing arrived for 0.1 s" in str(error)


def test_an_address_that_falls_silent_is_lost(video):
    with contextlib.ExitStack() as stack:
        with send_udp(video[0], pace=0.001) as port:
            reader = reader_of(f"udp://127.0.0.1:{port}", idle=0.2, retries=0)
            frames = stack.enter_context(reader).frames()
            next(frames)
        with pytest.raises(VideoError, match=r"lost \(nothing arrived for 0.2 s\)"):
            list(frames)


def test_a_finished_video_of_an_address_ends(video):
    """A length says that nothing follows."""
    data, images = video
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()

    def finite(connection):
        connection.recv(4096)
        connection.sendall(head)
        return connection.sendall

    with serve(data, greet=finite) as port:
        found, reader, said, error = read(f"http://127.0.0.1:{port}/v.ts")
    check_same(found, images)
    assert (error, said, reader.counts.losses) == (None, [], 0)


def test_hls(video, tmp_path):
    """A playlist of segments, complete."""
    data, images = video
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-PLAYLIST-TYPE:VOD\n"
    (tmp_path / "live.m3u8").write_text(f"{head}#EXTINF:1.2,\nv.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "v.ts").write_bytes(data)
    handler = functools.partial(Files, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found, _, said, error = read(f"http://127.0.0.1:{server.server_port}/live.m3u8")
        server.shutdown()
    check_same(found, images)
    assert (error, said) == (None, [])


def test_a_playlist_of_an_address_opens_no_file(video, tmp_path):
    (tmp_path / "v.ts").write_bytes(video[0])
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\nfile://{tmp_path}/v.ts\n"
    (tmp_path / "live.m3u8").write_text(f"{playlist}#EXT-X-ENDLIST\n")
    handler = functools.partial(Files, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found, *_, error = read(f"http://127.0.0.1:{server.server_port}/live.m3u8", idle=2)
        server.shutdown()
    assert found == []
    assert error is not None


class Files(SimpleHTTPRequestHandler):
    """Serve files without a word."""

    extensions_map = {".ts": "video/mp2t", ".m3u8": "application/vnd.apple.mpegurl"}  # noqa: RUF012

    def log_message(self, *words):
        pass


def grow(path, data, pace=0.002):
    with path.open("ab") as file:
        for part in parts(data):
            file.write(part)
            file.flush()
            time.sleep(pace)


def test_a_growing_file_ends_when_it_does_not_grow(video, tmp_path):
    data, images = video
    path = tmp_path / "v.ts"
    path.write_bytes(data[:9000])
    writer = threading.Thread(target=grow, args=(path, data[9000:]))
    writer.start()
    began = time.monotonic()
    found, _, said, error = read(path, idle=0.4)
    assert time.monotonic() - began > 0.4
    writer.join()
    check_same(found, images)
    assert (error, said) == (None, [])


def test_a_file_that_does_not_grow_is_said(video, tmp_path):
    path = tmp_path / "v.ts"
    path.write_bytes(video[0])
    found, _, said, error = read(path, idle=0.1)
    check_same(found, video[1])
    assert error is None
    (line,) = said
    assert "did not grow while it was watched: nonlocalnet predict --every" in line


@pytest.mark.parametrize("content", [b"", b"no video" * 99, b"#EXTM3U\n#EXTINF:1,\nsecret.ts\n"])
def test_a_file_that_is_no_video(content, tmp_path):
    path = tmp_path / "v.ts"
    path.write_bytes(content)
    found, _, _, error = read(path, idle=0.1)
    assert found == []
    assert "v.ts: " in str(error)


def test_standard_input(video, monkeypatch):
    data, images = video
    here, there = os.pipe()
    before = os.dup(0)
    os.dup2(here, 0)
    try:
        with os.fdopen(there, "wb") as file:
            writer = threading.Thread(target=file.write, args=(data,))
            writer.start()
            with reader_of("-") as reader:
                found = []
                for frame in reader.frames():
                    found.append(frame)
                    if len(found) == COUNT - 6:  # the writer's end is the video's
                        writer.join()
                        file.close()
        check_same(found, images)
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(here)


def test_what_is_too_much_to_wait_is_dropped_and_decoding_goes_on_at_a_key_frame(
    video, monkeypatch
):
    data, _ = video
    monkeypatch.setattr(live, "MAX_BYTES", 4 * len(data) // COUNT)
    with (
        serve(data, greet=plain) as port,
        reader_of(f"tcp://127.0.0.1:{port}", retries=0) as reader,
    ):
        reader._thread.join()  # all has arrived before the first frame is decoded
        found = []
        with pytest.raises(VideoError, match="lost"):
            found.extend(frame for frame in reader.frames())
    assert 0 < reader.counts.dropped < COUNT


def test_packets_that_waited_too_long_are_dropped(video, monkeypatch):
    monkeypatch.setattr(live, "MAX_WAIT", 0.05)
    data, images = video
    found = {}
    with (
        serve(data, greet=plain, pace=0.02) as port,
        reader_of(f"tcp://127.0.0.1:{port}", retries=0) as reader,
    ):
        frames = reader.frames()
        with contextlib.suppress(VideoError):
            while True:
                frame = next(frames)
                time.sleep(0.06)
                found[round(25 * frame.time)] = frame.image
    assert reader.counts.dropped > 0
    assert len(found) + reader.counts.dropped == COUNT
    for number, image in found.items():
        np.testing.assert_array_equal(image, images[number])
    jumps = [b for a, b in itertools.pairwise(found) if b != a + 1]
    assert jumps
    assert all(number % 5 == 0 for number in jumps)


def test_no_frame_outlives_its_use(video, tmp_path):
    """Frames in circles would stay until Python looks for such, and it does not see their size."""
    path = tmp_path / "v.ts"
    path.write_bytes(video[0])
    gc.collect()
    gc.disable()
    try:
        before = sum(type(x) is av.VideoFrame for x in gc.get_objects())
        read(path, idle=0.05)
        after = sum(type(x) is av.VideoFrame for x in gc.get_objects())
    finally:
        gc.enable()
    assert after - before < 5


def test_leaving_does_not_wait_for_data(video):
    with (
        send_udp(video[0], pace=0.001) as port,
        reader_of(f"udp://127.0.0.1:{port}", idle=60) as reader,
    ):
        next(reader.frames())
    began = time.monotonic()
    with reader_of(f"udp://127.0.0.1:{port}", idle=60):
        time.sleep(0.05)
    assert time.monotonic() - began < 2
