"""Make the parameters and clips of the oracle from names and shapes (oracle/README.md)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator

Draw = Callable[[Generator, tuple[int, ...]], np.ndarray]


def normal(deviation: float) -> Draw:
    return lambda rng, shape: deviation * rng.standard_normal(shape)


def uniform(rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.random(shape) + 0.5


def filters(rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Filters of mean zero and of the deviation that keeps the scale through ReLUs."""
    draws = rng.standard_normal(shape)
    inputs = tuple(range(1, len(shape)))
    # rounded, since the order of a sum in float64 may change from one numpy to the next
    draws -= draws.mean(inputs, keepdims=True).astype(np.float32)
    return draws * math.sqrt(2 / math.prod(shape[1:]))


def times(factor: float, draw: Draw) -> Draw:
    return lambda rng, shape: factor * draw(rng, shape)


def weight(rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (uniform if len(shape) == 1 else filters)(rng, shape)


# The end of a name decides on the values; the first end that fits counts.
CAFFE2: dict[str, Draw] = {
    "_momentum": normal(0.01),
    "_bn_rm": normal(0.1),
    "_bn_riv": uniform,
    "_branch2c_bn_s": times(0.5, uniform),
    "_bn_s": uniform,
    "_out_w": times(0.25, filters),
    "_w": filters,
    "_b": normal(0.1),
}
TORCH: dict[str, Draw] = {
    "num_batches_tracked": lambda rng, shape: np.zeros(shape, np.int64),
    "running_var": uniform,
    "running_mean": normal(0.1),
    "weight": weight,
    "bias": normal(0.1),
}


def fill(name: str, shape: tuple[int, ...] | list[int], gain: float = 1.0) -> np.ndarray:
    """Draw one parameter: names with dots are PyTorch's, others Caffe2's."""
    rules = TORCH if "." in name else CAFFE2
    draw = next(draw for end, draw in rules.items() if name.endswith(end))
    values = draw(_generator(name), tuple(shape))
    return values if values.dtype == np.int64 else (values * gain).astype(np.float32)


def clip(shape: tuple[int, ...] | list[int]) -> np.ndarray:
    """Draw the clip of a shape (N, 3, T, H, W)."""
    return normal(0.5)(_generator("input"), tuple(shape)).astype(np.float32)


def fingerprint(values: np.ndarray) -> str:
    little = values.astype(values.dtype.newbyteorder("<"))
    return f"{zlib.crc32(little.tobytes()):08x}"


def parameters(manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """Draw all parameters of a manifest and compare them with its fingerprints.

    A row with one more column names the parameter that it repeats.
    """
    drawn = {}
    columns = manifest.get("columns", ["key", "shape", "gain", "crc32"])
    for row in manifest["params"]:
        name, said = row[0], dict(zip(columns, row[: len(columns)], strict=True))
        if repeated := row[len(columns) :]:
            drawn[name] = drawn[repeated[0]]
            continue
        drawn[name] = fill(name, said["shape"], said["gain"])
        assert fingerprint(drawn[name]) == said["crc32"], name
    return drawn


def _generator(name: str) -> Generator:
    return Generator(PCG64(zlib.crc32(name.encode())))
