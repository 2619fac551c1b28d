"""Where in a video a clip lies, as users say it: as a part of it, or in seconds."""

from __future__ import annotations

import contextlib
import math


def part_of(moment: float | str, frames: int, span: int, fps: float) -> float:
    """Give a moment as a part of the way from the first clip to the last one."""
    part = moment if isinstance(moment, float | int) else math.nan
    seconds = math.nan
    if isinstance(moment, str) and moment.endswith("s"):
        with contextlib.suppress(ValueError):
            seconds = float(moment[:-1])
    if 0 <= part <= 1:
        return part
    if math.isnan(seconds):
        raise ValueError(
            "moment must be from 0 (first clip) to 1 (last), or seconds such as '1.5s'; "
            f"got {moment!r}"
        )
    if not fps or not 0 <= seconds <= frames / fps:
        lasts = f"lasts {frames / fps:.2f} s" if fps else "does not say how long it lasts"
        raise ValueError(f"moment must lie in the video, which {lasts}; got {moment!r}")
    starts = max(frames - span, 0)
    start = min(max(round(seconds * fps - span / 2), 0), starts)
    return (start + 0.5) / starts if start < starts else 1.0
