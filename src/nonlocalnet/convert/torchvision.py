"""ImageNet ResNets of torchvision and timm, to start a video network from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from nonlocalnet.convert.converted import COUNTER, Converted, translate
from nonlocalnet.convert.entry import Entry
from nonlocalnet.convert.files import Checkpoint
from nonlocalnet.convert.rules import Rules

ORIGIN = "torchvision or timm"
NORM = ("weight", "bias", "running_mean", "running_var", COUNTER)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def _rules() -> Iterator[tuple[str, str]]:
    yield "conv1.weight", "conv1.weight"
    for kind in NORM:
        yield f"bn1.{kind}", f"norm1.{kind}"
    for stage in (2, 3, 4, 5):
        theirs, ours = f"layer{stage - 1}.{{i}}", f"res{stage}.block{{i}}"
        yield f"{theirs}.downsample.0.weight", f"{ours}.shortcut.conv.weight"
        for number, branch in enumerate("abc", 1):
            yield f"{theirs}.conv{number}.weight", f"{ours}.conv_{branch}.weight"
        for kind in NORM:
            yield f"{theirs}.downsample.1.{kind}", f"{ours}.shortcut.norm.{kind}"
            for number, branch in enumerate("abc", 1):
                yield f"{theirs}.bn{number}.{kind}", f"{ours}.norm_{branch}.{kind}"
    for kind in ("weight", "bias"):
        yield f"fc.{kind}", f"fc.{kind}"


RULES = Rules(_rules())


def matches(names: Iterable[str]) -> bool:
    """Tell whether keys are of this layout."""
    return any(name.removeprefix("module.").startswith("layer1.0.") for name in names)


def convert(checkpoint: Checkpoint) -> Converted:
    """Put an image classifier's parameters in our names; kernels keep their four axes.

    Raises:
        ValueError: no bottleneck ResNet with a 7x7 stem (ResNet-18, ResNet-D, ResNeXt ...).
    """
    result = translate(ORIGIN, checkpoint, RULES)
    shapes = result.shapes()
    stem, first = shapes.get("conv1.weight", ()), shapes.get("res2.block0.conv_b.weight", ())
    if stem[2:] != (7, 7) or "res2.block0.conv_c.weight" not in shapes:
        raise ValueError("it is a ResNet without a 7x7 stem or without bottlenecks: not ResNet-50")
    if len(first) != 4 or first[0] != first[1]:
        raise ValueError("it is a ResNeXt, of grouped convolutions: not ResNet-50 or -101")
    result.flat = True
    result.mean, result.std = MEAN, STD
    return result


def inflate(weight: Entry, frames: int) -> Entry:
    """Make a 3-D kernel of a 2-D one: t copies of weight / t along a new time axis.

    (o, i, h, w) -> (o, i, t, h, w). On a video of one repeated frame the response is that of the
    image, wherever the kernel sees no padding in time.

    Source: paper, section 4.1 ("Inflated 3D ConvNet"); official loader.
    """

    def change(weight: Tensor) -> Tensor:
        return weight.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames

    return weight.map((*weight.shape[:2], frames, *weight.shape[2:]), change)
