"""Find the frames of one video among the pictures of a folder, by their numbers."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

# prefixes of optical flow beside the frames, as TSN's scripts write it
FLOW = ("flow_x_", "flow_y_", "flow_u_", "flow_v_", "x_", "y_", "u_", "v_")


@dataclass(frozen=True)
class Series:
    """The frames of a folder in the order of their numbers.

    Args:
        frames: the pictures.
        numbers: their numbers.
        others: other series in the folder, as "PREFIXN.SUFFIX"; then it is not clear which is the
            video.
        flow: pictures of optical flow.
    """

    frames: tuple[Path, ...]
    numbers: tuple[int, ...]
    others: tuple[str, ...] = ()
    flow: tuple[Path, ...] = ()

    @property
    def step(self) -> int:
        """The distance from a number to the next: 2 where a video has every second frame."""
        return math.gcd(*(b - a for a, b in pairwise(self.numbers))) or 1

    @property
    def missing(self) -> list[int]:
        """The missing numbers between the first and the last."""
        there, first, last = set(self.numbers), self.numbers[0], self.numbers[-1]
        return [n for n in range(first, last + 1, self.step) if n not in there]

    @property
    def twice(self) -> list[int]:
        """The numbers that several files have, such as 1.jpg and 01.jpg."""
        return sorted({a for a, b in pairwise(self.numbers) if a == b})


def numbered(files: Iterable[Path], *, asked: bool = False) -> Series | None:
    """Find the frames among the files of a folder: "00001.jpg", "img_00001.png", "ID-000001.jpg".

    Args:
        files: of one folder.
        asked: the folder was named as a video: then one picture with a number is enough.

    Returns:
        None where pictures are no series: there is only one, more have no number than have one,
        more numbers are missing than present, as with photographs, or all are optical flow.
    """
    groups: defaultdict[tuple[str, str], list[tuple[int, Path]]] = defaultdict(list)
    unnumbered = 0
    for path in files:
        suffix = path.suffix.lower()
        if suffix not in PICTURES or path.name.startswith("."):
            continue
        match = re.search(r"([0-9]+)$", path.stem)
        if match is None:
            unnumbered += 1
        else:
            groups[path.stem[: match.start()], suffix].append((int(match[1]), path))
    pictures = {key: group for key, group in groups.items() if key[0] not in FLOW}
    ranked = sorted(pictures or groups, key=lambda key: (-len(groups[key]), key))
    if not ranked:
        return None
    group = sorted(groups[ranked[0]])
    others = tuple(f"{prefix}N{suffix}" for prefix, suffix in ranked[1:])
    flow = (path for key, group in groups.items() if key not in pictures for _, path in group)
    numbers = tuple(number for number, _ in group)
    series = Series(tuple(path for _, path in group), numbers, others, tuple(flow))
    steps = (series.numbers[-1] - series.numbers[0]) // series.step + 1
    sure = pictures and len(group) > max(1, unnumbered) and steps <= 2 * len(group)
    return series if asked or sure else None
