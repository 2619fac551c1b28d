"""Families of networks: where what differs between networks of videos and of images is found.

Whoever trains, tests, counts or shows a network asks its family, by the name of the task; the code
is imported on first use. Nothing else in the library asks what kind of network it has.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Family:
    """A kind of networks.

    Attributes:
        name: of the family.
        takes: what its networks take.
        places: what can be done with a network -> "module:name" of the code that does it.
    """

    name: str
    takes: Literal["videos", "images"]
    places: Mapping[str, str]

    def load(self, what: str) -> Any:
        """Import and give the code for a task, such as "build" or "task"."""
        module, _, name = self.places[what].partition(":")
        return getattr(importlib.import_module(f"nonlocalnet.{module}"), name)


VIDEO = Family(
    "video",
    "videos",
    {
        "build": "networks.video_resnet:build",
        "task": "training.classification:make_task",
    },
)
DETECTION = Family(
    "detection",
    "images",
    {
        "build": "detection.networks:create_detector",
        "task": "detection.task:make_task",
    },
)
