"""What a video that is still arriving comes from: a camera, an address, a growing file, a pipe.

A command line is checked with this module before PyAV is imported: nothing heavy belongs here.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nonlocalnet.errors import FileError, check_choice

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp")


@dataclass(frozen=True)
class Source:
    """A video that is still arriving.

    Attributes:
        kind: a "camera", an "address", a "file" that grows, or a "pipe", which is standard input.
        place: path or address.
    """

    kind: Literal["camera", "address", "file", "pipe"]
    place: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read what names a source: "/dev/video0", an address, a path, or "-" for standard input.

        Raises:
            ValueError: an address of another kind.
            FileError: no such file or camera, or no permission to read it.

        >>> Source.parse("rtsp://me:secret@camera.example/live").name
        'rtsp://***@camera.example/live'
        """
        if text == "-":
            return cls("pipe", text)
        scheme, colon, _ = text.partition("://")
        if colon:
            check_choice("the address's scheme", scheme.lower(), SCHEMES)
            return cls("address", text)
        if re.fullmatch(r"/dev/video\w+", text):
            _check_camera(Path(text))
            return cls("camera", text)
        _check_file(Path(text))
        return cls("file", text)

    @property
    def name(self) -> str:
        """The source without secrets: user, password and what follows a "?" are "***"."""
        if self.kind == "pipe":
            return "standard input"
        if self.kind != "address":
            return self.place
        # up to the last @: a password with a slash is not valid, and still a secret
        return re.sub(r"\?.*", "?***", re.sub(r"(?<=://).*@", "***@", self.place))


def _check_file(path: Path) -> None:
    if not path.exists():
        raise FileError(path, "no such file")
    if path.is_dir():
        raise FileError(path, "is a directory; name the file that grows")
    _check_access(path, "")


def _check_camera(path: Path) -> None:
    if sys.platform != "linux":
        raise FileError(path, "cameras are read by Video4Linux, which only Linux has")
    if not path.exists():
        others = " ".join(sorted(str(one) for one in Path("/dev").glob("video*")))
        hint = f"this machine has {others}" if others else "this machine has no /dev/video*"
        more = "" if others else ": connect a camera (in a container: docker run --device)"
        raise FileError(path, f"no such camera; {hint}{more}")
    _check_access(path, ": your user must be in the group video")


def _check_access(path: Path, hint: str) -> None:
    if not os.access(path, os.R_OK):
        raise FileError(path, f"no permission to read it{hint}")
