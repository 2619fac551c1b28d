"""What a clip is, for the code that reads videos and for the code that reads weights.

Needs the standard library only, so that commands can check a clip before torch is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nonlocalnet.errors import shown

# mean and standard deviation of red, green and blue, where 1 is full: the official code's input
MEAN = (0.45,) * 3
STD = (0.225,) * 3

CLIPS = ("8x8", "32x2", "32x4", "128x1")  # clips of published networks, for messages


@dataclass(frozen=True)
class ClipSpec:
    """The frames of a clip: `frames` frames, one of every `rate` ("8x8", "32x2").

    Raises:
        ValueError: a number is below 1.

    >>> clip = ClipSpec.parse("8x8")
    >>> clip.frames, clip.rate, clip.span, str(clip)
    (8, 8, 64, '8x8')
    """

    frames: int
    rate: int

    def __post_init__(self) -> None:
        if self.frames < 1 or self.rate < 1:
            raise ValueError(f"a clip needs at least 1 frame and rate 1, got '{self}'")

    @classmethod
    def parse(cls, text: str) -> ClipSpec:
        """Read "FRAMESxRATE".

        Raises:
            ValueError: the text has another form.
        """
        match = re.fullmatch(r"([0-9]+)x([0-9]+)", text)
        if match is None:
            known = ", ".join(map(repr, CLIPS))
            raise ValueError(f"clip must be FRAMESxRATE such as {known}; got {shown(text)}")
        return cls(int(match[1]), int(match[2]))

    @property
    def span(self) -> int:
        """The number of frames of the video that the clip covers: frames · rate."""
        return self.frames * self.rate

    def __str__(self) -> str:
        return f"{self.frames}x{self.rate}"
