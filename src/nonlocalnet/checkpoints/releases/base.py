"""What is known of a released checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Release:
    """A released checkpoint. The scores are those of its authors; none was measured here.

    Attributes:
        name: unique; the stem of the file, or shorter.
        project: where it comes from.
        license: "(code)" if only the license of the code is stated.
        model: the network in the table (`list_models`), before `options`.
        clip: "FRAMESxRATE"; None for image classifiers.
        dataset: for training and test.
        top1, top5, figure: reported accuracies, and where they are reported.
        scores: reported mAP and COCO scores, in percent.
        options: arguments of the network that the file does not contain.
        sha256: its first digits, as many as the release states.
        saved: the name of the file here; "" is that in the URL.
    """

    name: str
    url: str
    project: str
    license: str
    model: str
    clip: str | None
    top1: float | None
    top5: float | None
    figure: str
    dataset: str = "Kinetics-400"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    sha256: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)
    saved: str = ""

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.saved or self.url.rpartition("/")[2]

    @property
    def blocks(self) -> int:
        """How many non-local blocks there are."""
        found = re.search(r"_nl(\d+)", self.model)
        return int(found[1]) if found else 0

    @property
    def boxes(self) -> bool:
        """Whether its classifier is for boxes in a frame, not for clips."""
        return self.dataset.startswith("AVA")


VIEWS = "10 clips x 3 crops"
