"""Make parameters and inputs of the blocks in oracle/wild.json from names and shapes."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator
from recipe import fingerprint


def _generator(text: str) -> Generator:
    return Generator(PCG64(zlib.crc32(text.encode())))


def _centered(rng: Generator, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    fan_in = math.prod(shape[axis] for axis in axes)
    values = rng.standard_normal(shape)
    if fan_in > 1:
        values -= values.mean(axes, keepdims=True).astype(np.float32)
    return values * math.sqrt(2 / fan_in)


def fill(case: str, key: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """Draw one entry of a block's state_dict."""
    kind, rng = key.rsplit(".", 1)[-1], _generator(f"{case}/{key}")
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var":
        values = 0.5 + rng.random(shape)
    elif kind in ("running_mean", "bias", "b"):
        values = 0.1 * rng.standard_normal(shape)
    elif kind == "sv0":
        values = np.ones(shape)
    elif kind in ("u0", "mem_kv"):
        values = rng.standard_normal(shape)
    elif math.prod(shape) == 1:
        values = np.full(shape, 0.75)
    elif kind in ("gamma", "g") or (kind == "weight" and len(shape) == 1):
        values = 0.5 + rng.random(shape)
    else:
        axes = (0,) if kind == "W" else tuple(range(1, len(shape)))
        values = _centered(rng, shape, axes)
    return np.asarray(values * gain, np.float32)


def state(case: str, about: dict[str, Any]) -> dict[str, np.ndarray]:
    """Draw the state_dict of a block and compare it with its fingerprints."""
    drawn = {}
    for key, shape, rule, gain, crc in about["state"]:
        if rule == "stored":
            values = np.array(about["stored"][key], np.float32).reshape(shape)
        else:
            values = fill(case, key, tuple(shape), gain)
        assert fingerprint(values) == crc, key
        drawn[key] = values
    return drawn


def feature_map(case: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """Draw the small input: channel c has the scale 2 ** -((c // 2) % 6), and an offset."""
    rng, channels = _generator(f"{case}/input/small"), shape[1]
    scale = 2.0 ** -((np.arange(channels) // 2) % 6)
    offset = 0.25 * rng.standard_normal(channels)
    axes = (1, channels, *(1,) * (len(shape) - 2))
    values = 0.5 * rng.standard_normal(shape) + offset.reshape(axes)
    return (values * scale.reshape(axes) * gain).astype(np.float32)


def normal(case: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw another input, or the cotangent."""
    return _generator(f"{case}/{name}").standard_normal(shape).astype(np.float32)


def spread(values: np.ndarray, count: int) -> np.ndarray:
    """Take `count` values at equal distances."""
    flat = values.reshape(-1)
    if flat.size <= count:
        return flat
    return flat[np.floor((np.arange(count) + 0.5) * flat.size / count).astype(np.int64)]
