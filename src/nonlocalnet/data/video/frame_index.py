"""Which frames a video holds, read from its packets: true counts without decoding.

Headers lie (a cut-off file announces all its frames), packets do not. What a packet's presence
does not tell, its first bytes do: a few codecs store packets that show nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av

from nonlocalnet.data.video.open import open_video
from nonlocalnet.data.video.restarts import Restarts


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video, in the order in which they are shown.

    `unusable` counts the packets before the first key frame: a video cut from a stream begins in
    the middle of one. `stamps` (in the stream's time base, ascending) is empty where the file's
    time stamps cannot place a frame; such a video is decoded in order from its start. `keys` are
    the frames that restart decoding, by number. `droppable`: the decoder may drop what nothing
    refers to.
    """

    num_frames: int
    unusable: int
    stamps: tuple[int, ...]
    keys: tuple[int, ...]
    duration: float  # seconds; 0 where unknown
    droppable: bool = False

    def key_before(self, i: int) -> int | None:
        """Find the frame at which decoding may begin for frame i; None: only at the start."""
        place = bisect_right(self.keys, i)
        return self.keys[place - 1] if place else None


def index_frames(container: av.container.InputContainer, stream: av.VideoStream) -> FrameIndex:
    """Read all packets of a stream; the container stands at its end afterwards.

    A file that breaks off ends its index where it does. Of one that begins in the middle of a
    stream, the frames up to the first restart are decoded: it may lack what they refer to.
    """
    codec, restarts = stream.codec_context.name, Restarts(stream)
    begun, unusable = False, 0
    shown: list[tuple[int | None, int]] = []  # stamp, duration
    try:
        for count, packet in enumerate(whole_packets(container, stream)):
            if packet.is_keyframe:
                if not begun:
                    begun, unusable = True, count
                    shown.clear()
                restarts.see(packet)
            if shows_frame(packet, codec):
                shown.append((packet.pts, packet.duration or 0))
    except av.FFmpegError:
        pass  # what follows cannot be read, so it cannot be decoded either

    keys = restarts.stamps()
    # AVI has no display times: with B-frames FFmpeg's are guesses, and wrong ones
    guessed = "avi" in container.format.name and stream.codec_context.has_b_frames
    stamps = sorted({stamp for stamp, _ in shown if stamp is not None})
    if guessed or not stamps or len(stamps) < len(shown):
        return FrameIndex(len(shown), unusable, (), (), 0.0)
    sound = min(keys, default=None)
    if restarts.known and (sound is None or stamps[0] < sound):
        early = _decoded_before(sound, Path(container.name), unusable)
        stamps = [s for s in stamps if s in early or (sound is not None and s >= sound)]
        if not stamps:
            return FrameIndex(0, unusable, (), (), 0.0)
    tick = stream.time_base or 0
    last = next(duration for stamp, duration in shown if stamp == stamps[-1])
    return FrameIndex(
        len(stamps),
        unusable,
        stamps=tuple(stamps),
        keys=tuple(i for i, stamp in enumerate(stamps) if stamp in keys),
        duration=float((stamps[-1] - stamps[0] + last) * tick) if last else 0.0,
        droppable=restarts.droppable,
    )


def _decoded_before(stop: int | None, path: Path, unusable: int) -> Set[int | None]:
    """Decode a video's first frames, up to the time stamp `stop`; give the stamps that come out."""
    container, stream = open_video(path)
    stamps: set[int | None] = set()
    with container:
        try:
            for packet in islice(whole_packets(container, stream), unusable, None):
                for frame in stream.decode(packet):
                    if stop is not None and frame.pts is not None and frame.pts >= stop:
                        return stamps
                    stamps.add(frame.pts)
        except av.FFmpegError:
            pass  # what follows does not come out
    return stamps


def whole_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.Packet]:
    """Read on through a stream, without packets that the file's end cuts off.

    The last packet is empty: it makes a decoder give what it holds back.
    """
    return (packet for packet in container.demux(stream) if not packet.is_corrupt)


def shows_frame(packet: av.Packet, codec: str) -> bool:
    """False for a packet that is decoded but never shown."""
    if not packet.size or packet.is_discard:  # before the start that an MP4 edit list sets
        return False
    if codec == "mpeg4":  # Xvid pads with one byte where B-frames delay it; a start code has four
        return packet.size > 4
    if codec == "vp8":  # show_frame, RFC 6386 section 9.1
        return bool(bytes(packet)[0] & 0x10)
    return True
