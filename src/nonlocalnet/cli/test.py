"""Test a network: average over clips and crops of every video; COCO's protocol for detectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nonlocalnet.cli.network import VideoNetworkOptions, check_weights, load_network
from nonlocalnet.options import Precision, check_paths, check_takes, setting


@dataclass(frozen=True, kw_only=True)
class Options(VideoNetworkOptions):
    """Options of `nonlocalnet test`."""

    data: Path = setting(names="a data set, a folder or a list")
    """Videos: a data set in a known format (docs/data.md), whose validation split is used if it has
    one, a folder with one subfolder per class, a list file or a Charades-style .csv. For a
    detector: COCO's folder, or one annotation file."""
    root: Path | None = setting(None, names="a folder")
    """Folder that relative paths in a list or .csv start from (default: the folder of that file);
    for detectors, the folder of the images."""
    split: int = setting(1, takes="videos")
    """Official split to use, for data sets with several (UCF101, HMDB51)."""
    num_clips: int | None = setting(None, least=1, takes="videos")
    """Clips per video; 1 takes the middle one; default: as the authors of the weights test (10; of
    segments 1)."""
    num_crops: Literal[1, 3, 6, 10] | None = setting(None, takes="videos")
    """Crops per clip: 1 in the center, 3 along the longer side, 6 with their mirror images, 10 in
    the corners and the center with theirs; default: as the authors of the weights test (3)."""
    side: int | None = setting(None, least=1)
    """Short side of the frames, in pixels; default: that of the weights (256; Charades: 320)."""
    crop: int | Literal["whole"] | None = setting(None, least=1, takes="videos")
    """Side of the crops, in pixels (default: that of the weights); "whole" tests the whole frame,
    as in the paper, at about half the cost of 3 crops."""
    precision: Precision = "fp32"
    """Arithmetic; auto is bf16 on GPUs that support it, otherwise fp32."""
    workers: int = setting(2, least=0)
    """Number of decoding processes."""
    out: Path | None = None
    """Folder for predictions.csv, wrong.csv, per_class.csv, confusion.csv and scores.json; for a
    detector, for scores.json and the detections in COCO's format. Or one file: a .csv for the
    predictions, a .json for the scores."""


def command(options: Options) -> int:
    if options.out is not None and options.out.suffix not in ("", ".csv", ".json"):
        raise ValueError(
            "--out must be a folder (a name without a dot), a .csv (predictions) or a .json "
            f"(scores); got {options.out}"
        )
    check_weights(options.weights)
    check_paths(options)

    from nonlocalnet.checkpoints.zoo import find_weights
    from nonlocalnet.networks.registry import family_of
    from nonlocalnet.runtime.distributed import broadcast, fail_together, process_group, rank

    with process_group(options.device) as device:
        # one process downloads a release, the others wait for it
        with fail_together():
            found = find_weights(options.weights) if rank() == 0 else None
        weights = broadcast(found)
        with fail_together():
            model = load_network(weights, options.clip, options.set, device)
        family = family_of(model)
        check_takes(options, family.takes, f"{options.weights} takes {family.takes}")
        family.load("test")(model, options, device)
    return 0
