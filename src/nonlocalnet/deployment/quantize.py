"""Quantize an ONNX file to int8, and measure what it changes."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nonlocalnet.deployment.onnx_network import OnnxNetwork
from nonlocalnet.runtime.atomic import write_atomically

QUANTIZED = ["Conv", "MatMul", "Gemm"]


@dataclass(frozen=True)
class Quantized:
    """What int8 changes, on clips that were not used to calibrate.

    Attributes:
        clips: number of clips compared.
        same_class: how many of them keep their most probable class.
        mean_change, largest_change: of the outputs.
        bytes_before, bytes_after: size of the files.
    """

    clips: int
    same_class: int
    mean_change: float
    largest_change: float
    bytes_before: int
    bytes_after: int


def quantize(
    source: str | os.PathLike,
    path: str | os.PathLike,
    clips: Sequence[Tensor],
    compared: Sequence[Tensor],
) -> Quantized:
    """Write an ONNX file of `nl.export` with convolutions and products in int8.

    Weights are quantized for each channel, activations by their range on the given clips
    (onnxruntime's static quantization, QDQ format). The softmax and the norms stay in float32.

    Args:
        source: a file of `nl.export`.
        path: the file to write.
        clips: clips (B, 3, T, H, W) of values from 0 to 1, from which ranges are taken.
        compared: other clips, on which both files are compared.

    Returns:
        What has changed.

    Raises:
        ValueError: no clips; a source that is not of this library.
    """
    if not clips or not compared:
        raise ValueError(
            f"quantizing needs clips to calibrate and others to compare; got {len(clips)} and "
            f"{len(compared)}"
        )
    before = OnnxNetwork(source)

    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            name = before.session.get_inputs()[0].name
            self.inputs: Iterator[dict[str, Any]] = ({name: clip.numpy()} for clip in clips)

        def get_next(self) -> Any:
            return next(self.inputs, None)

    logger = logging.getLogger()  # onnxruntime warns on the root logger of vectors without channels
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(Path(source), prepared, skip_symbolic_shape=True)

            def write(place: Path) -> None:
                quantize_static(
                    prepared,
                    place,
                    Reader(),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    op_types_to_quantize=QUANTIZED,
                )

            write_atomically(Path(path), write)
    finally:
        logger.setLevel(level)
    return _compare(before, OnnxNetwork(path), compared, Path(source), Path(path))


def _compare(
    before: OnnxNetwork, after: OnnxNetwork, clips: Sequence[Tensor], source: Path, path: Path
) -> Quantized:
    total = same = 0
    mean = largest = 0.0
    for clip in clips:
        old, new = (network.scores(clip, network.output) for network in (before, after))
        change = (old - new).abs()
        total += len(clip)
        same += int((old.argmax(1) == new.argmax(1)).sum())
        mean += change.mean(dim=1).sum().item()
        largest = max(largest, change.max().item())
    sizes = source.stat().st_size, path.stat().st_size
    return Quantized(total, same, mean / total, largest, *sizes)
