"""`nl.look`: show what the positions of a clip attend to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nonlocalnet.inspection.html_page import notebook
from nonlocalnet.inspection.scene import Scene
from nonlocalnet.inspection.writers import save
from nonlocalnet.networks.registry import family_of


@dataclass(frozen=True)
class Look(Scene):
    """A scene that displays itself in a notebook, and that can be saved."""

    def save(self, path: str | os.PathLike, **options: Any) -> Path:
        """Write a picture (.png), a video (.mp4), a page (.html) or the statistics (.json).

        The file is written atomically.

        Args:
            path: the file; its ending selects what is written.
            **options: those of `figure.draw_figure` (.png), `film.write_film` (.mp4) or
                `html_page.write` (.html).

        Returns:
            The path.

        Raises:
            ValueError: the ending is unknown, or a video is asked for what is no video.
        """
        return save(self, Path(path), **options)

    def _repr_html_(self) -> str:
        return notebook(self)


def look(
    model: nn.Module,
    clip: Tensor | str | os.PathLike,
    at: Sequence[float] | None = None,
    *,
    block: str | int | None = None,
    head: int | None = None,
    top: int = 20,
    title: str = "",
    moment: float | str = 0.5,
    crop: bool = False,
    each_frame: bool = False,
) -> Look:
    """Show what a position of a clip attends to in a network's non-local blocks.

    Args:
        model: any network with `NonLocalBlock`s, or with blocks of other projects after
            `nl.accelerate`. One from `nl.load` knows its clip and input.
            Detectors are those of `create_model`, or torchvision's R-CNNs with `add_non_local`.
        clip: a video file, for networks from `nl.load`; or the network's input without the batch
            axis: video (3, T, H, W), image (3, H, W) or sequence (C, T). uint8 is normalized as
            the network's weights say; float must be normalized already.
            For a detector, an image of any size: a file, or (3, H, W), uint8 or float from 0 to 1.
        at: the point: (frame of the clip, x, y) in pixels of the video or tensor; (x, y) for an
            image, in its own pixels; (step,) for a sequence. Default: the position whose attention
            differs most from the average (`statistics.summarize`).
        block: module path or number, from 1; by default the last block. The page shows all blocks.
        head: number of the head to show, from 1; by default the mean over the heads of a block.
        top: maximum number of arrows.
        title: by default the name of the file.
        moment: position of the clip in the video, from 0 (first clip) to 1 (last), or in seconds,
            such as "1.5s": the clip whose center is nearest. For files only.
        crop: look at the center crop instead of whole frames. For files only.
        each_frame: make brightness and arrows relative to each frame of a video, to see where in
            every frame a point attends to, also where its own frame has nearly all of the
            attention. The share of each frame is written below it.

    Returns:
        A `Look`: it displays itself in a notebook; `save` writes .html, .png, .mp4 or .json.

    Raises:
        ValueError: there is no non-local block, no such block or head, or the point or moment lies
            outside; or a detector is given a video, or another network an image file.
        VideoError, CocoError: the file cannot be read.

    Source: paper, figure 3.

    >>> import torch, nonlocalnet as nl
    >>> net = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32)
    >>> found = nl.look(net, torch.rand(3, 8, 32, 32), at=(5, 16, 9))
    >>> found.attention.query, found.attention.weights.shape
    ((2, 1, 2), torch.Size([4, 2, 2]))
    """
    look_at = family_of(model).load("look")
    shown = {"top": top, "title": title, "each_frame": each_frame}
    scene = look_at(model, clip, at=at, block=block, head=head, moment=moment, crop=crop, **shown)
    return Look(**vars(scene))
