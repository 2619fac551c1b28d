"""ImageNet ResNets of torchvision and timm, which networks can start from."""

from __future__ import annotations

from collections.abc import Iterator

from nonlocalnet.checkpoints.files import Checkpoint
from nonlocalnet.checkpoints.translate import AFFINE, BATCH_NORM, Rules, Translated, layer, rename

ORIGIN = "torchvision or timm"
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Caffe's ResNets: blue, green, red from 0 to 255, minus the mean of ImageNet; no deviation.
CAFFE_MEAN = tuple(value / 255 for value in (103.939, 116.779, 123.68))
CAFFE_STD = (1 / 255,) * 3
LARGE_INPUT = 8.0  # between a deviation of 1, of normalized input, and about 60, of 0 to 255


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


def translate(checkpoint: Checkpoint) -> Translated:
    """Translate an image classifier; kernels keep their four axes.

    Raises:
        ValueError: it is not a ResNet with bottlenecks and a 7x7 stem (ResNet-18, ResNet-D ...).
    """
    result = rename(ORIGIN, checkpoint, RULES)
    shapes = result.shapes()
    stem, first = shapes.get("conv1.weight", ()), shapes.get("res2.block0.conv_b.weight", ())
    if stem[2:] != (7, 7) or "res2.block0.conv_c.weight" not in shapes:
        raise ValueError("it is a ResNet without a 7x7 stem or without bottlenecks: not ResNet-50")
    result.flat = True
    result.groups = first[0] // first[1] if len(first) == 4 and first[1] else 0
    if _input_deviation(result) > LARGE_INPUT:
        result.mean, result.std = CAFFE_MEAN, CAFFE_STD
        result.swap_colors()
        result.notes.append(
            "the statistics of its first norm are those of input from 0 to 255: assumed to be a "
            "Caffe-style network (blue, green, red, ImageNet's mean subtracted), whose first "
            "convolutions were turned to red, green, blue; such networks have the strides on the "
            "first 1x1 convolution, this one has them on the 3x3"
        )
    else:
        result.mean, result.std = MEAN, STD
        result.notes.append(
            f"input assumed to be normalized as torchvision's, mean {MEAN} and std {STD}: the file "
            "does not say it, and some of timm's have 0.5"
        )
    return result


def _input_deviation(result: Translated) -> float:
    """Estimate the standard deviation of the input from the stem and the norm after it.

    A filter w with input of deviation s gives a variance of about s² · Σw², which is in the norm's
    statistics. Magnitudes of weights alone say nothing, since the norm makes up for them.
    """
    stem, variance = (result.tensors.get(n) for n in ("conv1.weight", "norm1.running_var"))
    if stem is None or variance is None or variance.shape != stem.shape[:1]:
        return 1.0
    energy = stem.read().double().flatten(1).square().sum(1)
    return float((variance.read().double() / energy).abs().median().sqrt())
