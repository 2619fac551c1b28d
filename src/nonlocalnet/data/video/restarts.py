"""Find the packets at which decoding can start: no later frame needs what came before.

A container's key flag does not prove it. H.264 files flag recovery points, after which pictures
become right, or nearly right, only gradually. AV1 has key frames that are shown later than they are
stored. For older codecs the flag depends on the program that wrote the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import av

# They predict from the last pictures only, so decoding can start at any picture that is coded by
# itself. Their decoders say which these are; `VideoReader` compares that with the packet's flag.
SIMPLE = ("mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2")
SIMPLE += ("h263", "flv1", "vp8", "vp9", "ffv1")
START_CODE = re.compile(b"\0\0\1")
AV1_FRAMES = (3, 6)  # units of a frame's header, alone or with the frame


class Restarts:
    """Collect the time stamps of the packets at which decoding can start.

    Attributes:
        known: False for a codec of which no packet can be trusted, such as those that draw each
            frame over the last one (animations, screen captures).
        droppable: the decoder can skip frames that no other refers to without changing others.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        context = stream.codec_context
        self.codec = context.codec.canonical_name
        self.known = self.codec in (*SIMPLE, "h264", "hevc", "av1") or context.codec.intra_only
        self._header = header = context.extradata or b""
        listed = header[:1] == b"\1" and len(header) > 22
        place = header[21 if self.codec == "hevc" else 4] if listed else 0
        self._length = (place & 3) + 1 if listed else 0  # bytes of a unit's length; 0: start codes
        # a frame of VP8 or VP9 passes statistics on even if no other refers to it, and higher
        # temporal layers of HEVC refer to lower ones
        one_layer = listed and place >> 3 & 7 <= 1
        self.droppable = self.codec in ("h264", "mpeg1video", "mpeg2video", "mpeg4") or (
            self.codec == "hevc" and one_layer
        )
        self._seen: list[tuple[int | None, bool]] = []  # stamp, brings its parameter sets
        self._one_set = True

    def see(self, packet: av.Packet) -> None:
        """Look at a packet that the container flags as key; call this in the order of the file."""
        if self.codec in ("h264", "hevc"):
            restarts, sets = self._first_slice(packet)
            self._one_set &= all(one in self._header for one in sets)
            if restarts:
                self._seen.append((packet.pts, bool(sets)))
        elif self.known and (self.codec != "av1" or _shows_key(packet)):
            self._seen.append((packet.pts, True))

    def stamps(self) -> set[int]:
        """Return the time stamps of all packets at which decoding can start.

        Where the parameter sets change midway, these are only packets that bring their own.
        """
        return {
            stamp
            for stamp, complete in self._seen
            if stamp is not None and (complete or self._one_set)
        }

    def _first_slice(self, packet: av.Packet) -> tuple[bool, list[bytes]]:
        """Say whether decoding can start at the first slice, and return the sets before it."""
        sets = []
        for unit in _units(memoryview(packet), self._length):
            if self.codec == "h264":  # ITU-T H.264, table 7-1
                kind = unit[0] & 31
                slices, idr, parameters = range(1, 6), (5,), (7, 8)
            else:  # ITU-T H.265, table 7-1; no frame after a CRA refers to one before
                kind = unit[0] >> 1 & 63
                slices, idr, parameters = range(32), range(16, 22), (32, 33, 34)
            if kind in slices:
                return kind in idr, sets
            if kind in parameters:
                sets.append(bytes(unit))
        return False, sets


def _units(data: memoryview, length: int) -> Iterator[memoryview]:
    """Split a packet into NAL units, which follow their lengths or lie between start codes."""
    if length:
        begin = length
        while begin < len(data):
            end = begin + int.from_bytes(data[begin - length : begin], "big")
            if end > begin:
                yield data[begin:end]
            begin = end + length
        return
    begin = None
    for found in START_CODE.finditer(data):
        if begin is not None:
            yield _without_zeros(data[begin : found.start()])
        begin = found.end()
    if begin is not None and begin < len(data):
        yield data[begin:]


def _without_zeros(unit: memoryview) -> memoryview:
    """Remove zeros at the end, which belong to the next start code: no unit ends with one."""
    end = len(unit)
    while end > 1 and not unit[end - 1]:
        end -= 1
    return unit[:end]


def _shows_key(packet: av.Packet) -> bool:
    """Whether the first frame of an AV1 packet is a key frame, shown at once (AV1, 5.3 to 5.9)."""
    data, place = memoryview(packet), 0
    while place < len(data):
        header = data[place]
        place += 2 if header & 4 else 1  # an extension
        if not header & 2:  # no size: it is the last one
            size = len(data) - place
        else:
            size = shift = 0
            while place < len(data):
                byte, place = data[place], place + 1
                size |= (byte & 127) << shift
                shift += 7
                if not byte & 128:
                    break
        if header >> 3 & 15 in AV1_FRAMES:
            return place < len(data) and data[place] >> 4 == 1  # new, of the kind 0, shown
        place += size
    return False
