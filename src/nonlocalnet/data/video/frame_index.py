"""Index the frames of a video from its packets: a true count without decoding.

The header of a file that was cut off still announces all its frames, so packets are counted. A few
codecs have packets that show nothing; their first bytes say so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av

from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.video.open import open_video
from nonlocalnet.data.video.restarts import Restarts


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video, in the order in which they are shown.

    Args:
        num_frames: how many there are.
        packets: how many the stream has, of any kind.
        unusable: packets before the first key frame; there are some if the file was cut from a
            stream.
        stamps: time stamps in the stream's time base, ascending; empty if those of the file cannot
            tell frames apart. Such a video is decoded in order from its start.
        keys: numbers of the frames at which decoding can start.
        duration: seconds; 0 where unknown.
        droppable: the decoder may skip frames that no other refers to.
    """

    num_frames: int
    packets: int
    unusable: int
    stamps: tuple[int, ...]
    keys: tuple[int, ...]
    duration: float
    droppable: bool = False

    def key_before(self, i: int) -> int | None:
        """Find the last frame up to i at which decoding can start; None is the file's start."""
        place = bisect_right(self.keys, i)
        return self.keys[place - 1] if place else None


def index_frames(
    path: Path | PackedVideo, container: av.container.InputContainer, stream: av.VideoStream
) -> FrameIndex:
    """Read all packets of a stream of a video; the container is at its end afterwards.

    The index of a truncated file ends where the file does. Of a file that begins in the middle of a
    stream, the frames before the first restart are decoded, to see which of them can be: what they
    refer to may be missing.
    """
    codec, restarts = stream.codec_context.name, Restarts(stream)
    begun, packets, unusable = False, 0, 0
    shown: list[tuple[int | None, int]] = []  # stamp, duration
    try:
        for count, packet in enumerate(whole_packets(container, stream)):
            packets += packet.size > 0
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
    # AVI has no display times: with B-frames, FFmpeg guesses them, often wrongly
    guessed = "avi" in container.format.name and stream.codec_context.has_b_frames
    stamps = sorted({stamp for stamp, _ in shown if stamp is not None})
    if guessed or not stamps or len(stamps) < len(shown):
        return FrameIndex(len(shown), packets, unusable, (), (), 0.0)
    sound = min(keys, default=None)
    if restarts.known and (sound is None or stamps[0] < sound):
        early = _decoded_before(sound, path, unusable)
        stamps = [s for s in stamps if s in early or (sound is not None and s >= sound)]
        if not stamps:
            return FrameIndex(0, packets, unusable, (), (), 0.0)
    tick = stream.time_base or 0
    last = next(duration for stamp, duration in shown if stamp == stamps[-1])
    return FrameIndex(
        len(stamps),
        packets,
        unusable,
        stamps=tuple(stamps),
        keys=tuple(i for i, stamp in enumerate(stamps) if stamp in keys),
        duration=float((stamps[-1] - stamps[0] + last) * tick) if last else 0.0,
        droppable=restarts.droppable,
    )


def _decoded_before(stop: int | None, path: Path | PackedVideo, unusable: int) -> Set[int | None]:
    """Decode a video's first frames, up to the time stamp `stop`, and collect their stamps."""
    container, stream = open_video(path)
    stamps: set[int | None] = set()
    with container:
        try:
            for frame in decode_in_order(container, stream, unusable):
                if stop is not None and frame.pts is not None and frame.pts >= stop:
                    return stamps
                stamps.add(frame.pts)
        except av.FFmpegError:
            pass  # no frame follows
    return stamps


def whole_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.Packet]:
    """Read the packets of a stream, without a last one that the end of the file cuts off.

    Damage before the end stays: players show it, and where streams were joined, the mark is wrong.
    The last packet is empty: it makes a decoder output its delayed frames.
    """
    held = None
    for packet in container.demux(stream):
        if held is not None and packet.size:
            yield held
            held = None
        if packet.is_corrupt:
            held = packet
        else:
            yield packet


def decode_in_order(
    container: av.container.InputContainer, stream: av.VideoStream, unusable: int
) -> Iterator[av.VideoFrame]:
    """Decode a stream from its start, without its first `unusable` packets."""
    for packet in islice(whole_packets(container, stream), unusable, None):
        yield from stream.decode(packet)


def shows_frame(packet: av.Packet, codec: str) -> bool:
    """Whether a packet is shown, and not only decoded."""
    if not packet.size or packet.is_discard:  # before the start that an MP4 edit list sets
        return False
    if codec == "mpeg4":  # Xvid pads with one byte where B-frames delay it; a start code has four
        return packet.size > 4
    if codec == "vp8":  # show_frame, RFC 6386 section 9.1
        return bool(bytes(packet)[0] & 0x10)
    return True
