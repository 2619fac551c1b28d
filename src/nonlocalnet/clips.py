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

# By whose code the test clips and crops of a video are placed (`data.sampling`).
RULES = ("official", "mmaction2", "tsm")
AVERAGES = ("probabilities", "logits")
MAX_CLIPS = 1000  # of a video

CLIPS = ("8x8", "32x2", "32x4", "128x1")  # clips of published networks, for messages


@dataclass(frozen=True)
class ClipSpec:
    """The frames of a clip: `frames` frames, one of every `rate` ("8x8", "32x2").

    Or `frames` segments ("8seg", rate None): the whole video in so many equal parts, and one frame
    of each, as in TSN and TSM.

    Raises:
        ValueError: a number is below 1.

    >>> clip = ClipSpec.parse("8x8")
    >>> clip.frames, clip.rate, clip.span, str(clip)
    (8, 8, 64, '8x8')
    >>> ClipSpec.parse("8seg")
    ClipSpec(frames=8, rate=None)
    """

    frames: int
    rate: int | None

    def __post_init__(self) -> None:
        if self.frames < 1 or (self.rate is not None and self.rate < 1):
            raise ValueError(f"a clip needs at least 1 frame and rate 1, got '{self}'")

    @classmethod
    def parse(cls, text: str) -> ClipSpec:
        """Read "FRAMESxRATE", or "Nseg" for segments.

        Raises:
            ValueError: the text has another form.
        """
        match = re.fullmatch(r"([0-9]+)(?:x([0-9]+)|seg)", text)
        if match is None:
            known = ", ".join(map(repr, CLIPS))
            raise ValueError(
                f"clip must be FRAMESxRATE such as {known}, or segments such as '8seg'; "
                f"got {shown(text)}"
            )
        return cls(int(match[1]), None if match[2] is None else int(match[2]))

    @property
    def span(self) -> int | None:
        """The number of frames of the video that the clip covers: frames · rate; None is all."""
        return None if self.rate is None else self.frames * self.rate

    def __str__(self) -> str:
        return f"{self.frames}seg" if self.rate is None else f"{self.frames}x{self.rate}"


@dataclass(frozen=True)
class Views:
    """The views of a video that a network is tested on, as its authors do.

    Attributes:
        num_clips: clips of the video; None is 10, or 1 if a clip is segments of the whole video.
        num_crops: crops of a clip: 1, 3, 6 or 10, as in `TestTransform`.
        crop: side of the crops in pixels; None is the short side of the frames.
        rule: by whose code clips and crops are placed, one of `RULES`.
        average: what is averaged over the views: "probabilities" or "logits".

    Raises:
        TypeError: a value is of the wrong kind.
    """

    num_clips: int | None = None
    num_crops: int = 3
    crop: int | None = None
    rule: str = "official"
    average: str = "probabilities"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("num_crops", self.num_crops, (1, 3, 6, 10)),
            ("rule", self.rule, RULES),
            ("average", self.average, AVERAGES),
        ):
            if type(value) is not type(allowed[0]) or value not in allowed:
                told = ", ".join(map(repr, allowed))
                raise TypeError(f"{name} of views must be one of {told}; got {shown(value)}")
        clips = self.num_clips
        if clips is not None and (type(clips) is not int or not 0 < clips <= MAX_CLIPS):
            raise TypeError(
                f"num_clips of views must be from 1 to {MAX_CLIPS:,}; got {shown(clips)}"
            )
        if self.crop is not None and (type(self.crop) is not int or self.crop < 1):
            raise TypeError(f"crop of views must be a number of pixels; got {shown(self.crop)}")
