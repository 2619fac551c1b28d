"""Which frames a video holds, read from its packets: true counts without decoding.

Headers lie (a cut-off file announces all its frames), packets do not. What a packet's presence
does not tell, its first bytes do: a few codecs store packets that show nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import av


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video, in the order in which they are shown.

    `unusable` counts the packets before the first key frame: a video cut from a stream begins in
    the middle of one. `stamps` (in the stream's time base, ascending) and `keys` (frame numbers of
    the key frames) are empty where the file's time stamps cannot place a frame; such a video is
    decoded in order from its start.
    """

    num_frames: int
    unusable: int
    stamps: tuple[int, ...]
    keys: tuple[int, ...]
    duration: float  # seconds; 0 where unknown

    def key_before(self, i: int) -> int:
        """Find the key frame from which frame i can be decoded."""
        return self.keys[bisect_right(self.keys, i) - 1]


def index_frames(container: av.container.InputContainer, stream: av.VideoStream) -> FrameIndex:
    """Read all packets of a stream; the container stands at its end afterwards.

    A file that breaks off ends its index where it does.
    """
    codec = stream.codec_context.name
    begun, unusable = False, 0
    shown: list[tuple[int | None, int, bool]] = []  # stamp, duration, is a key frame
    try:
        for count, packet in enumerate(whole_packets(container, stream)):
            if packet.is_keyframe and not begun:
                begun, unusable = True, count
                shown.clear()
            if shows_frame(packet, codec):
                shown.append((packet.pts, packet.duration or 0, packet.is_keyframe))
    except av.FFmpegError:
        pass  # what follows cannot be read, so it cannot be decoded either

    stamps = sorted({stamp for stamp, _, _ in shown if stamp is not None})
    keys = {stamp for stamp, _, key in shown if key}
    # AVI has no display times: with B-frames FFmpeg's are guesses, and wrong ones
    guessed = "avi" in container.format.name and stream.codec_context.has_b_frames
    if guessed or not stamps or len(stamps) < len(shown) or stamps[0] not in keys:
        return FrameIndex(len(shown), unusable, (), (), 0.0)
    tick = stream.time_base or 0
    last = next(duration for stamp, duration, _ in shown if stamp == stamps[-1])
    return FrameIndex(
        len(shown),
        unusable,
        stamps=tuple(stamps),
        keys=tuple(i for i, stamp in enumerate(stamps) if stamp in keys),
        duration=float((stamps[-1] - stamps[0] + last) * tick) if last else 0.0,
    )


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
