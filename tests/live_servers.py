"""Servers on the loopback that send a video as cameras do: HTTP, TCP, UDP and RTSP."""

from __future__ import annotations

import io
import itertools
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import av
import numpy as np

PACKETS = 7 * 188  # bytes: whole packets of MPEG-TS, as many as fit in one of UDP


def transport_stream(frames: np.ndarray, fps: int = 25, gop: int = 5) -> bytes:
    """Encode frames (T, H, W, 3) as MPEG-TS, with a key frame every `gop` frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as file:
        options = {"g": str(gop), "preset": "ultrafast", "tune": "zerolatency", "crf": "10"}
        stream = file.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def parts(data: bytes) -> Iterator[bytes]:
    """Cut a transport stream into parts that fit into a UDP packet."""
    return (data[k : k + PACKETS] for k in range(0, len(data), PACKETS))


Greet = Callable[[socket.socket], Callable[[bytes], None]]


def plain(connection: socket.socket) -> Callable[[bytes], None]:
    """TCP without a protocol."""
    return connection.sendall


def http(connection: socket.socket) -> Callable[[bytes], None]:
    """HTTP without a length, as live streams are sent."""
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
    return connection.sendall


def rtsp(connection: socket.socket) -> Callable[[bytes], None]:
    """RTSP, which sends RTP packets of MPEG-TS in the same connection (RFC 2326, RFC 2250)."""
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=live\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n"
    while True:
        request = connection.recv(4096).decode()
        method, number = request.split(" ")[0], re.search(r"CSeq: *(\d+)", request)[1]
        more, body = "Session: 1\r\n", ""
        if method == "OPTIONS":
            more = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            more, body = f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n", sdp
        elif method == "SETUP":
            more += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
        connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}\r\n{body}".encode())
        if method == "PLAY":
            break
    count = itertools.count()

    def send(data: bytes) -> None:
        i = next(count)
        packet = struct.pack(">BBHII", 0x80, 33, i, 90 * i, 1) + data
        connection.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)

    return send


@contextmanager
def _running(run: Callable[[], None], over: threading.Event) -> Iterator[None]:
    """Run a function in a thread, and end it by the event."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)


@contextmanager
def serve(*connections: bytes, greet: Greet = http, pace: float = 0.0) -> Iterator[int]:
    """Send each connection its bytes and close it; refuse further ones. Yield the port.

    Args:
        connections: what each is sent, in their order.
        greet: speaks the protocol, and returns what sends.
        pace: seconds between two parts of 1316 bytes.
    """
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    server.settimeout(0.05)
    over = threading.Event()

    def accept() -> socket.socket:
        while not over.is_set():
            with suppress(TimeoutError):
                return server.accept()[0]
        raise ConnectionError("nobody else comes")

    def run() -> None:
        try:
            for data in connections:
                with accept() as connection:
                    connection.settimeout(10)
                    send = greet(connection)
                    for part in parts(data):
                        send(part)
                        time.sleep(pace)
        except OSError:
            pass  # the client has left, or did not come
        finally:
            server.close()

    with _running(run, over):
        yield port


@contextmanager
def send_udp(data: bytes, pace: float) -> Iterator[int]:
    """Send MPEG-TS by UDP, again and again, to the port that is yielded."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    over = threading.Event()

    def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not over.is_set():
                for part in parts(data):
                    sender.sendto(part, ("127.0.0.1", port))
                    over.wait(pace)

    with _running(run, over):
        yield port
