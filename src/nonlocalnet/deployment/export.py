"""Export a network as an ONNX file or a torch.export program, and compare its numbers."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from nonlocalnet.checkpoints.files import KEY
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.clips import ClipSpec
from nonlocalnet.deployment import SUFFIXES
from nonlocalnet.errors import check_choice
from nonlocalnet.networks.registry import Network, family_of
from nonlocalnet.runtime.atomic import write_atomically

INPUT = "clips"
OUTPUT = "nonlocalnet.output"  # in the metadata
Scores = Literal["probabilities", "logits"]
TOLERANCE = 1e-4  # of the largest output: the same sums in another order
PIXELS = 16  # by which the second size of frames differs from the example's

Run = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class Exported:
    """What `export` wrote, and how near its numbers are.

    Attributes:
        path: the file.
        inputs: shapes of the inputs that were compared.
        difference: the largest difference between an output of the file and of the network.
        largest: the largest output of the network.
    """

    path: Path
    inputs: list[tuple[int, ...]]
    difference: float
    largest: float


def export(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    example: Any = None,
    output: Scores | None = None,
    any_size: bool = False,
) -> Exported:
    """Export a network as an ONNX file or a torch.export program, and compare its numbers.

    A video network of `nl.load` takes clips (B, 3, T, H, W) in the exported form: float32, red,
    green and blue from 0 to 1. Its normalization is part of the program, and its description
    (classes, clip, size) is in the file's metadata. Any other network takes what `example` is, and
    is exported as it is.

    The batch may have any size. The program contains torch's own operators only. It is run, by
    onnxruntime or torch, and compared with the network before the file is written.

    Args:
        model: the network; it is exported in evaluation mode, on the CPU.
        path: a file that ends in .onnx or .pt2 (`torch.export.load` reads it).
        example: a tensor or a tuple of tensors, with the batch first, that the network takes; by
            default a clip of the network's own size.
        output: what a video network returns: class probabilities (B, K), as in fully convolutional
            testing, or logits (B, K); by default what the network's test averages over views.
        any_size: let frames have any height and width, which takes several times as long; the
            network must take any, as convolutional ones do.

    Returns:
        The file, and how near its numbers are.

    Raises:
        ValueError: another ending; a network that needs an example; a detector; a network that
            does not take frames of any size.
        RuntimeError: the numbers of the file differ from those of the network.

    >>> import tempfile, torch, nonlocalnet as nl
    >>> block = nl.NonLocalBlock(4, dims=2)
    >>> path = tempfile.mkdtemp() + "/block.pt2"
    >>> done = nl.export(block, path, example=torch.randn(2, 4, 6, 6))
    >>> program = torch.export.load(done.path).module()
    >>> program(torch.randn(5, 4, 6, 6)).shape
    torch.Size([5, 4, 6, 6])
    """
    path = Path(path)
    check_choice("ending of the file", path.suffix, SUFFIXES)
    info = getattr(model, "info", None)
    if example is None:
        model, example, output = _video_program(model, info, output)
    elif output is not None:
        raise ValueError("output is for the video networks of nl.load, without an example")
    else:
        info = None
    inputs = example if isinstance(example, tuple) else (example,)
    if not all(isinstance(leaf, Tensor) and leaf.dim() for leaf in pytree.tree_leaves(inputs)):
        raise ValueError("example must be a tensor or a tuple of tensors, with the batch first")
    if pytree.tree_leaves(inputs)[0].shape[0] < 2:
        # the exporter takes a size of 1 for a constant
        inputs = pytree.tree_map(lambda x: x.repeat_interleave(2, 0), inputs)
    metadata = {} if info is None else {KEY: info.as_json(), OUTPUT: str(output)}
    with _evaluation(model):
        make = _to_onnx if path.suffix == ".onnx" else _to_program
        try:
            content, run = make(model, inputs, _free_sizes(inputs, any_size), metadata)
        except Exception as error:
            if any_size:
                raise ValueError(
                    "the network cannot be exported for frames of any size; leave any_size out "
                    f"({_first_line(error)})"
                ) from error
            raise
        exported = _compare(model, run, path, inputs, any_size)
    write_atomically(path, lambda place: place.write_bytes(content))
    return exported


def _video_program(
    model: nn.Module, info: WeightsInfo | None, output: Scores | None
) -> tuple[nn.Module, Tensor, Scores]:
    """Wrap a video network with its normalization, and make a clip of its size."""
    if family_of(model).takes != "videos":
        raise ValueError(
            "detectors are not exported: their number of objects differs from image to image"
        )
    if info is None or "clip" not in info.config:
        raise ValueError(
            "this network does not know its clip: load it with nl.load, or give example"
        )
    average = "logits" if info.views.average == "logits" else "probabilities"
    output = output or average
    check_choice("output", output, get_args(Scores))
    frames, side = ClipSpec.parse(info.config["clip"]).frames, info.short_side
    generator = torch.Generator().manual_seed(0)
    return (
        VideoProgram(model, info, output),
        torch.rand(2, 3, frames, side, side, generator=generator),
        output,
    )


class VideoProgram(nn.Module):
    """A video network for clips of values from 0 to 1, as it is exported."""

    def __init__(self, model: Network, info: WeightsInfo, output: Scores) -> None:
        super().__init__()
        self.model, self.output, self.multi_label = model, output, info.multi_label
        for name in ("mean", "std"):
            color = torch.tensor(getattr(info, name)).view(3, 1, 1, 1)
            self.register_buffer(name, color, persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, K)."""
        x = (clips - self.get_buffer("mean")) / self.get_buffer("std")
        if self.output == "probabilities" and hasattr(self.model, "probabilities"):
            return self.model.probabilities(x, multi_label=self.multi_label)
        logits = self.model(x)
        if self.output == "logits":
            return logits
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)


def _free_sizes(inputs: tuple, any_size: bool) -> tuple:
    """Name the sizes that may change: the batch, and the height and width of maps."""

    def free(x: Tensor) -> dict[int, Any]:
        space = range(x.dim() - 2, x.dim()) if any_size and x.dim() > 3 else ()
        return dict.fromkeys((0, *space), Dim.DYNAMIC)

    return pytree.tree_map(free, inputs)


def _to_program(
    model: nn.Module, inputs: tuple, sizes: tuple, metadata: dict[str, str]
) -> tuple[bytes, Run]:
    program = torch.export.export(model, inputs, dynamic_shapes=sizes)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=metadata)
    module = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), lambda *x: pytree.tree_leaves(module(*x))


def _to_onnx(
    model: nn.Module, inputs: tuple, sizes: tuple, metadata: dict[str, str]
) -> tuple[bytes, Run]:
    import onnxruntime

    single = len(inputs) == 1
    with _quiet():
        program = torch.onnx.export(
            model,
            inputs,
            dynamic_shapes=sizes,
            input_names=[INPUT] if single and metadata else None,
            output_names=[metadata[OUTPUT]] if metadata else None,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*x: Any) -> list[Tensor]:
        values = [leaf.numpy() for leaf in pytree.tree_leaves(x)]
        return list(map(torch.from_numpy, session.run(None, dict(zip(names, values, strict=True)))))

    return content, run


@torch.no_grad()
def _compare(model: nn.Module, run: Run, path: Path, inputs: tuple, any_size: bool) -> Exported:
    """Compare outputs for the example, one sample and three, and another size of frames."""

    def resize(x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, PIXELS, 0, PIXELS // 2)) if x.dim() > 3 else x

    tried = [
        inputs,
        pytree.tree_map(lambda x: x[:1], inputs),
        pytree.tree_map(lambda x: torch.cat([x[:2], x[:1]]), inputs),
    ]
    if any_size:
        tried.append(pytree.tree_map(resize, inputs))
    difference = largest = 0.0
    for x in tried:
        expected = pytree.tree_leaves(model(*x))
        for ours, theirs in zip(expected, run(*x), strict=True):
            difference = max(difference, (ours - theirs).abs().max().item())
            largest = max(largest, ours.abs().max().item())
    if not difference <= TOLERANCE * largest:
        raise RuntimeError(
            f"{path} was not written: its outputs differ from the network's by {difference:.2g}, "
            f"where the largest is {largest:.2g}"
        )
    shapes = [tuple(pytree.tree_leaves(x)[0].shape) for x in tried]
    return Exported(path, shapes, difference, largest)


@contextlib.contextmanager
def _evaluation(model: nn.Module) -> Generator[None]:
    """Put a network on the CPU in evaluation mode, and back afterwards."""
    tensor = next(iter([*model.parameters(), *model.buffers()]), None)
    device = None if tensor is None else tensor.device
    training = {module: module.training for module in model.modules()}
    model.eval().cpu()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was
        if device is not None:
            model.to(device)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Hide what the exporter says to its makers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
