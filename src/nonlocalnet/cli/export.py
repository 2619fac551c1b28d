"""Export a network as an ONNX file or a torch.export program."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from nonlocalnet.cli.network import VideoNetworkOptions, check_weights, load_network
from nonlocalnet.deployment import SUFFIXES
from nonlocalnet.errors import FileError, check_choice, option
from nonlocalnet.options import setting

if TYPE_CHECKING:
    from torch import Tensor

    from nonlocalnet.checkpoints.metadata import WeightsInfo


@dataclass(frozen=True, kw_only=True)
class Options(VideoNetworkOptions):
    """Options of `nonlocalnet export`."""

    out: tyro.conf.Positional[Path]
    """OUT.onnx, or OUT.pt2, a program for torch.export.load."""
    output: Literal["probabilities", "logits"] | None = None
    """What the file returns; default: what the test of these weights averages over views."""
    any_size: bool = False
    """Let frames have any height and width; takes several times as long."""
    int8: tuple[Path, ...] = ()
    """Videos, folders or lists: quantize OUT.onnx to int8 by the ranges on half of these videos,
    and compare on the other half."""
    most: int = setting(64, least=2)
    """Number of videos that --int8 uses at most."""


def command(options: Options) -> int:
    out = options.out
    check_choice("ending of the file", out.suffix, SUFFIXES)
    check_weights(options.weights)
    if options.weights.suffix == ".onnx":
        raise ValueError(f"{options.weights} is exported already; name the weights that it is from")
    if options.int8 and out.suffix != ".onnx":
        raise ValueError(f"{option('int8')} is for .onnx files; got {out}")
    if not options.int8 and options.most != Options.most:
        raise ValueError(f"{option('most')} is for {option('int8')}: give it, too")
    if out.exists() and options.weights.exists() and out.samefile(options.weights):
        raise ValueError(f"{out} is the file to read; choose another name")

    from nonlocalnet.deployment.export import export
    from nonlocalnet.runtime.log import console

    model = load_network(options.weights, options.clip, options.set, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "float32.onnx" if options.int8 else out
        clips = _read_clips(options, model.info) if options.int8 else []
        done = export(model, place, output=options.output, any_size=options.any_size)
        shapes = ", ".join("x".join(map(str, shape)) for shape in done.inputs)
        console.print(
            f"compared on {shapes}: outputs differ by at most {done.difference:.1e} "
            f"(the largest is {done.largest:.2g})",
            soft_wrap=True,
        )
        if options.int8:
            _quantize(place, out, clips)
    console.print(f"wrote {out}", soft_wrap=True)
    return 0


def _read_clips(options: Options, info: WeightsInfo) -> list[Tensor]:
    """Read the middle clip of each video, as values from 0 to 1."""
    from nonlocalnet.data.paths import expand_paths
    from nonlocalnet.data.video.reader import VideoError
    from nonlocalnet.evaluation.prediction import make_unlabeled_set
    from nonlocalnet.runtime.log import Bar, status

    paths, notes = expand_paths(options.int8)
    for note in notes:
        status.print(note, soft_wrap=True)
    step = max(1, len(paths) // options.most)
    paths = paths[::step][: options.most]
    dataset = make_unlabeled_set(paths, info, num_clips=1, num_crops=1)
    clips: list[Tensor] = []
    with Bar("read", len(paths)) as bar:
        for index, path in enumerate(paths):
            try:
                clips.append(dataset[index][0].float() / 255)
            except VideoError as error:
                status.print(f"nonlocalnet: {FileError(path, error.reason)}", soft_wrap=True)
            bar.advance(text=path.name)
    if len(clips) < 2:
        raise ValueError(
            f"{option('int8')} needs at least two readable videos; found {len(clips)} in "
            f"{' '.join(map(str, options.int8))}"
        )
    return clips


def _quantize(source: Path, out: Path, clips: list[Tensor]) -> None:
    from nonlocalnet.deployment.quantize import quantize
    from nonlocalnet.runtime.log import console

    change = quantize(source, out, clips[::2], clips[1::2])
    console.print(
        f"int8, on {change.clips} clips that did not calibrate it: {change.same_class} keep their "
        f"most probable class; outputs change by {change.mean_change:.1e} on average, "
        f"{change.largest_change:.1e} at most; {change.bytes_before / 1e6:.1f} MB before, "
        f"{change.bytes_after / 1e6:.1f} MB now",
        soft_wrap=True,
    )
