"""Families of networks: where the code is that differs between networks of videos and of images.

Code that trains, tests, counts or shows networks finds these parts by the name of the job, through
`family_of` in `networks.registry`. They are imported on first use; this module needs no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Family:
    """Networks that are built, trained, tested and shown by the same code.

    Attributes:
        name: of the family.
        takes: what its networks take.
        places: job -> "module:name" of the code that does it, or "module" for a whole module. A
            leading dot stands for `nonlocalnet`.
        costs: what `nonlocalnet models` counts and compares with; {clip} and {crop} are filled in.
        attribute: a network that was built elsewhere is of this family if it has this attribute.
    """

    name: str
    takes: Literal["videos", "images"]
    places: Mapping[str, str] = field(repr=False)
    costs: str = "{clip}, {crop} x {crop}, 400 classes; ratio to C2D"
    attribute: str | None = None

    def load(self, job: str) -> Any:
        """Import the code for a job, such as "build".

        Raises:
            ValueError: the family has no code for it.
        """
        if job not in self.places:
            raise ValueError(f"{self.name} networks have no {job!r}; they have {[*self.places]}")
        place, _, name = self.places[job].partition(":")
        module = importlib.import_module(place, "nonlocalnet")
        return getattr(module, name) if name else module


@dataclass(frozen=True)
class Row:
    """A network of the table.

    Attributes:
        family: what builds it.
        fields: what the family's "build" takes.
        base: name of the network that its costs are compared with; None is itself.
    """

    family: Family
    fields: Mapping[str, Any]
    base: str | None = None


VIDEO = Family(
    "video",
    "videos",
    {
        "build": ".networks.arguments:build",
        "network": ".networks.video_resnet:VideoResNet",
        "cost": ".evaluation.cost:compute_clip",
        "memory_format": ".networks.video_resnet:use_fast_layout",
        "look": ".inspection.clip:look_at",
        "test": ".evaluation.testing:test_videos",
        "task": ".training.classification:make_task",
        "fields": ".checkpoints.formats.native:fields_of_video",
        "weights": ".checkpoints.resolve",
    },
)
