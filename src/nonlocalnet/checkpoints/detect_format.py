"""From any checkpoint to `Converted`: the layout is found out by its names."""

from __future__ import annotations

from nonlocalnet.checkpoints.converted import Converted
from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.formats import (
    caffe2,
    mmaction2,
    pytorchvideo,
    torchvision,
    torchvision_rcnn,
)
from nonlocalnet.checkpoints.formats import pyslowfast as slowfast
from nonlocalnet.checkpoints.wrappers import stray, unwrap

LAYOUTS = (torchvision_rcnn, caffe2, slowfast, mmaction2, pytorchvideo, torchvision)


def convert(checkpoint: Checkpoint) -> Converted:
    """Put a checkpoint of another code base in our names.

    Raises:
        ValueError: an unknown layout, or a network that is none of the paper's.
    """
    bare, wrapping = unwrap(checkpoint)
    for layout in LAYOUTS:
        if layout.matches(bare.entries):
            return wrapping.tell(layout.convert(bare))
    if said := stray(checkpoint.entries):
        raise ValueError(f"{said}: is there more than a network in it? Save the network's alone")
    names = ", ".join(list(checkpoint.entries)[:3])
    raise ValueError(
        f"its names ({names}, ...) are of no known layout; there are "
        f"{', '.join(layout.ORIGIN for layout in LAYOUTS)} and nonlocalnet's own"
    )
