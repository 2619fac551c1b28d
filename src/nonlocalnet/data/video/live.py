"""Read the frames of a video while it arrives, and never fall behind it.

One thread reads packets as soon as they come, so that each has the time of its arrival. Decoding is
the caller's: `LiveReader.frames` yields frames in the order in which they are shown. If packets
wait too long to be decoded, all that wait are dropped, and decoding goes on at the next key frame.
"""

from __future__ import annotations

import gc
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from nonlocalnet.data.sampling import limit_short_side
from nonlocalnet.data.video.open import VideoError, best_stream
from nonlocalnet.data.video.rotation import upright
from nonlocalnet.data.video.source import Source
from nonlocalnet.runtime.handover import Handover

MAX_WAIT = 2.0  # seconds that a packet may wait to be decoded
MAX_BYTES = 2**26  # of packets that wait
MAX_JUMP = 10.0  # seconds between the time stamps of two frames; more is another video
FIRST_PAUSE, MAX_PAUSE = 1.0, 30.0  # seconds before an attempt to connect again
LOOK = 0.05  # seconds between two looks at a file that does not grow
REORDERED = 64  # packets of which a decoder may still give the frames
# what an address may lead to: never to a file of this machine
PROTOCOLS = "rtsp,rtp,srtp,rtmp,rtmps,rtmpt,http,https,httpproxy,udp,tcp,tls,crypto,data"


class LiveFrame(NamedTuple):
    """A frame that arrived.

    Attributes:
        time: seconds of the stream, 0 for its first frame. After a loss, the seconds without frames
            count.
        arrival: when its packet was here, by `time.monotonic`.
        image: uint8 (h, w, 3), RGB.
        part: a number; a frame of another part does not continue the frame before, since the
            connection was lost, or the time or the size jumps.
    """

    time: float
    arrival: float
    image: np.ndarray
    part: int


class _Arrived(NamedTuple):
    packet: av.Packet
    arrival: float
    decoder: av.VideoCodecContext  # of its connection


@dataclass
class Counts:
    """What went wrong so far.

    Attributes:
        dropped: frames that were not decoded, since decoding is slower than the stream.
        damaged: frames that could not be decoded.
        losses: connections that were lost.
    """

    dropped: int = 0
    damaged: int = 0
    losses: int = 0


class LiveReader:
    """Read a live source: open it in a `with` statement, and iterate over `frames`.

    Args:
        source: where the video comes from.
        short_side: frames with a longer shorter side are scaled down to it.
        idle: a file that has not grown for so many seconds has ended, and an address or a camera
            that sent nothing for so long is lost.
        retries: attempts to connect again, in a row, after a loss. They are made after 1, 2, 4, ...
            seconds, up to 30. The first connection is tried once.
        tell: called from another thread with a sentence about a loss or a new connection.
    """

    def __init__(
        self,
        source: Source,
        *,
        short_side: int | None = None,
        idle: float = 10.0,
        retries: int = 10,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.source, self.short_side, self.idle, self.retries = source, short_side, idle, retries
        self.counts = Counts()
        self._tell = tell
        self._packets: Handover[_Arrived] = Handover()
        self._file: _GrowingFile | None = None
        self._stop = threading.Event()
        self._arrived = self._failures = 0
        self._read_bytes = self._decoded_bytes = 0  # each is changed by one thread only
        self._skipping = False
        # FFmpeg cannot be interrupted while it waits for data, so the end does not wait for it
        self._thread = threading.Thread(target=self._read, name="read", daemon=True)
        self._reformatter = VideoReformatter()

    def __enter__(self) -> LiveReader:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._packets.end()
        self._thread.join(timeout=0.5)

    def frames(self) -> Iterator[LiveFrame]:
        """Decode frames as they arrive; the iteration ends with the video.

        Raises:
            VideoError: the source cannot be read, or is lost for good.
        """
        clock, size, part, decoder = _Clock(), None, -1, None
        arrivals: dict[int | None, float] = {}
        while True:
            try:
                item = self._packets.get()
            except EOFError:
                return
            assert item is not None, "there is no timeout"
            self._decoded_bytes += item.packet.size
            if item.decoder is not decoder:
                decoder = item.decoder
                clock.restart()
                arrivals.clear()
            arrivals[item.packet.pts] = item.arrival
            if len(arrivals) > REORDERED:
                del arrivals[next(iter(arrivals))]
            try:
                frames = decoder.decode(item.packet)
            except EOFError:  # after its last packet
                continue
            except av.FFmpegError:
                self.counts.damaged += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.counts.damaged += 1
                    continue
                arrival = arrivals.pop(frame.pts, item.arrival)
                moment, fresh = clock.tell(frame, arrival)
                image = upright(self._to_rgb(frame), frame)
                part += fresh or image.shape != size
                size = image.shape
                yield LiveFrame(moment, arrival, image, part)

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        height, width = limit_short_side(frame.height, frame.width, self.short_side)
        rgb = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation="BILINEAR", threads=1
        )
        return rgb.to_ndarray()

    def _read(self) -> None:
        """Read packets, and connect again after losses; this is a thread of its own."""
        try:
            while not (self._stop.is_set() or self._read_once()):
                self._stop.wait(self._pause())
            if self._file and not (self._file.has_grown or self._stop.is_set()):
                self._tell(
                    f"{self.source.name} did not grow while it was watched: nonlocalnet predict "
                    "--every computes every moment of a video that is complete"
                )
        except BaseException as error:
            self._packets.end(error)
        else:
            self._packets.end()

    def _read_once(self) -> bool:
        """Read one connection to its end; return whether the video has ended.

        Raises:
            VideoError: it cannot be read, or was lost for good.
        """
        before = self._arrived
        try:
            if self._read_packets():
                return True
            reason = "the connection was closed"
        except VideoError as error:
            if not self._arrived or self.source.kind in ("file", "pipe"):
                raise
            reason = error.reason
        if self._arrived > before:
            self.counts.losses += 1
            self._failures = 0
            gc.collect()  # PyAV's objects refer to each other, and Python does not see their size
        if self._failures == self.retries:
            tried = f", and not found again (attempts: {self.retries})" if self.retries else ""
            raise VideoError(self.source.name, f"lost{tried} ({reason})")
        self._failures += 1
        self._tell(
            f"{self.source.name}: {reason}; connecting again in {self._pause():g} s "
            f"(attempt {self._failures} of {self.retries})"
        )
        return False

    def _pause(self) -> float:
        """Return the seconds before the next attempt."""
        return min(FIRST_PAUSE * 2.0 ** (self._failures - 1), MAX_PAUSE)

    def _read_packets(self) -> bool:
        """Read the packets of one connection; return whether the video ends where they do."""
        container = self._open()
        try:
            stream = best_stream(self.source.name, container, 1)
            finite = container.duration is not None or container.size > 0
            self._skipping, first = True, True  # a decoder needs a key frame first
            for packet in container.demux(stream):
                if self._stop.is_set():
                    break
                self._put(_Arrived(packet, time.monotonic(), stream.codec_context), began=not first)
                if first and self._failures:
                    self._tell(f"{self.source.name}: connected again")
                first = False
        except av.FFmpegError as error:
            raise VideoError(self.source.name, self._explain(error)) from None
        finally:
            container.close()
        return finite or self.source.kind in ("file", "pipe") or self._stop.is_set()

    def _put(self, item: _Arrived, *, began: bool) -> None:
        """Hand a packet to the decoder, or drop it: see the module."""
        if item.packet.size:
            self._arrived += 1
        oldest = self._packets.oldest()
        waits = oldest is not None and item.arrival - oldest.arrival > MAX_WAIT
        if waits or self._read_bytes - self._decoded_bytes > MAX_BYTES:
            dropped = self._packets.clear()
            self.counts.dropped += len(dropped)
            self._read_bytes -= sum(one.packet.size for one in dropped)
            self._skipping = True
        if self._skipping and item.packet.size and not item.packet.is_keyframe:
            self.counts.dropped += began
            return
        self._skipping = False
        self._read_bytes += item.packet.size
        self._packets.put(item)

    def _open(self) -> av.container.InputContainer:
        source, place = self.source, self.source.place
        options: dict[str, Any] = {"metadata_errors": "ignore"}
        try:
            if source.kind == "camera":
                return av.open(place, format="v4l2", timeout=self._timeout(), **options)
            if source.kind == "address":
                given = {"protocol_whitelist": PROTOCOLS, "analyzeduration": "2000000"}
                if place.lower().startswith("rtsp"):
                    given["rtsp_flags"] = "prefer_tcp"  # loses no packets
                if place.lower().startswith("udp"):
                    given["overrun_nonfatal"] = "1"  # packets that came too fast are lost
                return av.open(place, timeout=self._timeout(), options=given, **options)
            file = _Pipe(self.idle, self._stop)
            if source.kind == "file":
                file = self._file = _GrowingFile(place, self.idle, self._stop)
            # no protocol: what the file names is not opened
            given = {"protocol_whitelist": ""}
            return cast(
                "av.container.InputContainer",
                av.open(cast("BinaryIO", file), options=given, **options),
            )
        except (av.FFmpegError, OSError) as error:
            raise VideoError(source.name, self._explain(error, opening=True)) from None

    def _timeout(self) -> float | None:
        return None if math.isinf(self.idle) else self.idle

    def _explain(self, error: OSError | av.FFmpegError, *, opening: bool = False) -> str:
        """Say what went wrong, without the address, which FFmpeg's message has."""
        if isinstance(error, av.error.ExitError):
            return f"nothing arrived for {self.idle:g} s"
        if not opening:
            return f"reading failed ({error.strerror})"
        if self.source.kind == "address":
            return f"cannot be opened ({error.strerror})"
        if self.source.kind == "camera":
            return f"the camera cannot be opened ({error.strerror})"
        return (
            f"not a video that can be read while it grows ({error.strerror}): MPEG-TS, Matroska "
            "and fragmented MP4 can"
        )


class _GrowingFile:
    """Read a file that another program writes; it ends when it has not grown for some time."""

    def __init__(self, path: str, idle: float, stop: threading.Event) -> None:
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115
        self._idle, self._stop = idle, stop
        self.has_grown = False

    def read(self, size: int) -> bytes:
        """Return what there is, at most so many bytes; wait for some."""
        end, waited = time.monotonic() + self._idle, False
        while not (data := self._file.read(size)):
            if self._stop.is_set() or time.monotonic() >= end:
                return b""
            waited = True
            self._stop.wait(LOOK)
        self.has_grown |= waited
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Pipe(_GrowingFile):
    """Read standard input until it is closed."""

    def __init__(self, idle: float, stop: threading.Event) -> None:
        self._idle, self._stop = idle, stop

    def read(self, size: int) -> bytes:
        """Return what there is, at most so many bytes; wait for some."""
        end = time.monotonic() + self._idle
        while not (self._stop.is_set() or time.monotonic() >= end):
            if select.select([0], [], [], LOOK)[0]:
                return os.read(0, size)
        return b""

    def close(self) -> None:
        """Leave standard input open."""


class _Clock:
    """Give frames the time of the stream: by time stamps where they continue, else by arrival."""

    def __init__(self) -> None:
        self._start: float | None = None  # arrival of the first frame
        self._last = -math.inf
        self._base: tuple[float, float] | None = None  # time stamp, and time of the stream

    def restart(self) -> None:
        """Take the next frame as the first one of another connection."""
        self._base = None

    def tell(self, frame: av.VideoFrame, arrival: float) -> tuple[float, bool]:
        """Return the time of a frame, and whether it does not continue the frame before."""
        if self._start is None:
            self._start = arrival
        stamp = arrival if frame.pts is None else float(frame.pts * cast("Any", frame.time_base))
        moment = math.nan if self._base is None else self._base[1] + stamp - self._base[0]
        fresh = not 0 <= moment - self._last <= MAX_JUMP
        if fresh:
            moment = max(arrival - self._start, self._last)
            self._base = stamp, moment
        self._last = moment
        return moment, fresh
