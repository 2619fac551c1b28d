"""Rotate frames as their display matrix says: phones store a portrait video on its side."""

from __future__ import annotations

from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType


def _unknown_type(cls: type[SideDataType], value: int) -> SideDataType:
    """Name a kind of side data that PyAV does not know yet.

    PyAV 17 and 18 raise a ValueError for the side data of any frame that has one of these, such as
    EXIF in motion JPEG or the views of a stereoscopic HEVC video.
    """
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


SideDataType._missing_ = classmethod(_unknown_type)  # ty: ignore[invalid-assignment]


def display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """Read (a, b, c, d) of a frame: pixel (x, y) is shown at (a x + c y, b x + d y).

    Returns:
        None where the frame has no such matrix: it is shown as it is stored.
    """
    # `frame.side_data` would be kept in the frame and refers to it: frames in such circles stay in
    # memory until Python looks for circles, and it does not see how large they are
    side_data = cast("Any", SideDataContainer)(frame)  # its stub lacks the argument
    data = side_data.get(SideDataType.DISPLAYMATRIX)
    # 3 x 3 numbers, libavutil/display.h
    return None if data is None else np.frombuffer(data, np.int32)[[0, 1, 3, 4]]


def swaps_sides(frame: av.VideoFrame) -> bool:
    """Whether the height of a frame as it is stored is its width as it is shown."""
    matrix = display_matrix(frame)
    return matrix is not None and bool(abs(matrix[1]) > abs(matrix[0]))


def shown_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Give the height and width of a frame as it is shown."""
    size = frame.height, frame.width
    return size[::-1] if swaps_sides(frame) else size


def upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Rotate and mirror the pixels (H, W, C) of a frame to what is shown."""
    matrix = display_matrix(frame)
    if matrix is None:
        return image
    a, b, c, d = matrix
    if abs(b) > abs(a):
        image, right, down = image.swapaxes(0, 1), c, b
    else:
        right, down = a, d
    return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])
