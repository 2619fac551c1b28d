"""ImageNet ResNets of torchvision and timm, to start a network from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from nonlocalnet.checkpoints.converted import Converted, translate
from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.lazy_tensor import Entry
from nonlocalnet.checkpoints.rules import AFFINE, BATCH_NORM, Rules, layer

ORIGIN = "torchvision or timm"
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def _rules() -> Iterator[tuple[str, str]]:
    yield from layer("conv1", "conv1")
    yield from layer("bn1", "norm1", BATCH_NORM)
    yield from layer("fc", "fc", AFFINE)
    for stage in (2, 3, 4, 5):
        theirs, ours = f"layer{stage - 1}.{{i}}", f"res{stage}.block{{i}}"
        yield from layer(f"{theirs}.downsample.0", f"{ours}.shortcut.conv")
        yield from layer(f"{theirs}.downsample.1", f"{ours}.shortcut.norm", BATCH_NORM)
        for number, branch in enumerate("abc", 1):
            yield from layer(f"{theirs}.conv{number}", f"{ours}.conv_{branch}")
            yield from layer(f"{theirs}.bn{number}", f"{ours}.norm_{branch}", BATCH_NORM)


RULES = Rules(_rules())


def matches(names: Iterable[str]) -> bool:
    """Tell whether keys are of this layout."""
    return any(name.startswith("layer1.0.") for name in names)


def convert(checkpoint: Checkpoint) -> Converted:
    """Put an image classifier's parameters in our names; kernels keep their four axes.

    Raises:
        ValueError: no bottleneck ResNet with a 7x7 stem (ResNet-18, ResNet-D ...).
    """
    result = translate(ORIGIN, checkpoint, RULES)
    shapes = result.shapes()
    stem, first = shapes.get("conv1.weight", ()), shapes.get("res2.block0.conv_b.weight", ())
    if stem[2:] != (7, 7) or "res2.block0.conv_c.weight" not in shapes:
        raise ValueError("it is a ResNet without a 7x7 stem or without bottlenecks: not ResNet-50")
    result.flat = True
    result.groups = first[0] // first[1] if len(first) == 4 and first[1] else 0
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
