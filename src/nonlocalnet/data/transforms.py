"""Make clips from decoded frames: resize, crop and flip all frames of a clip alike; normalize.

Clips stay uint8 until they are on the device that computes: a quarter of the bytes to copy.

Resizing is bilinear on uint8 without antialiasing, as OpenCV's in the official code, so that
published weights get frames as sharp as those that they were trained on. Where `decode` has already
scaled large frames down (swscale's bilinear, which does average), only the rest is done here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnet.clips import MEAN, STD
from nonlocalnet.data.sampling import crop_offsets, short_side_size

Colors = tuple[float, ...]  # values for red, green and blue, from 0 to 1


def normalize(frames: Tensor, mean: Colors = MEAN, std: Colors = STD) -> Tensor:
    """Normalize frames for a network: (v / 255 - mean) / std.

    The defaults are the official code's (v - 114.75) / 57.375.

    Args:
        frames: uint8 (..., 3, T, H, W), RGB; any shape if the colors have the same mean and std.
        mean, std: of red, green and blue.

    Returns:
        float32, the same shape.

    >>> normalize(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-2.0000,  2.4444])
    """
    _check_uint8(frames)
    device = frames.device
    return (frames.float() - _scaled(mean, device)) / _scaled(std, device)


def denormalize(x: Tensor, mean: Colors = MEAN, std: Colors = STD) -> Tensor:
    """Undo `normalize`: float -> uint8 of the same shape, rounded and clamped.

    >>> denormalize(normalize(torch.tensor([7], dtype=torch.uint8)))
    tensor([7], dtype=torch.uint8)
    """
    device = x.device
    return (x * _scaled(std, device) + _scaled(mean, device)).round().clamp(0, 255).to(torch.uint8)


def _scaled(colors: Colors, device: torch.device) -> float | Tensor:
    """Multiply by 255, and broadcast to (..., 3, T, H, W); one number if the colors are equal."""
    if len(set(colors)) == 1:
        return 255 * colors[0]
    return 255 * torch.tensor(colors, device=device).view(-1, 1, 1, 1)


def resize_short_side(frames: Tensor, short_side: int) -> Tensor:
    """Resize frames to a shorter side of `short_side`, with the same aspect ratio.

    uint8 (T, 3, H, W) -> uint8 (T, 3, h, w), bilinear, without antialiasing.
    """
    size = short_side_size(frames.shape[-2], frames.shape[-1], short_side)
    if size == tuple(frames.shape[-2:]):
        return frames
    # torch resizes bytes on a CPU only
    source = frames if frames.device.type == "cpu" else frames.float()
    resized = F.interpolate(source, size, mode="bilinear", align_corners=False)
    return resized if resized.dtype == torch.uint8 else resized.round().to(torch.uint8)


class TrainTransform:
    """Augment a training clip: one scale, one crop and one flip for all of its frames.

    uint8 (T, 3, H, W) RGB -> uint8 (3, T, crop, crop). Random choices come from torch's global
    generator. There is no other augmentation: official code, and section 3.3 of the paper.

    Args:
        crop: side of the crop, pixels; its place is drawn uniformly.
        short_side: the shorter side of the frames is drawn uniformly from this range, both ends
            included; a single number is used as it is.
        flip: probability of the mirror image.
        mean, std: for `VideoDataset.normalize`.

    Raises:
        ValueError: the crop does not fit the smallest short side.

    >>> clip = torch.zeros(2, 3, 30, 40, dtype=torch.uint8)
    >>> TrainTransform(crop=16, short_side=(20, 24))(clip).shape
    torch.Size([3, 2, 16, 16])
    """

    def __init__(
        self,
        crop: int = 224,
        short_side: tuple[int, int] | int = (256, 320),
        flip: float = 0.5,
        mean: Colors = MEAN,
        std: Colors = STD,
    ) -> None:
        low, high = (short_side, short_side) if isinstance(short_side, int) else short_side
        if not 1 <= crop <= low <= high:
            raise ValueError(
                f"the crop must fit the smallest short side: 1 <= crop <= low <= high, "
                f"got crop {crop} and short_side ({low}, {high})"
            )
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is a probability between 0 and 1, got {flip}")
        self.crop, self.short_side, self.flip = crop, (low, high), flip
        self.mean, self.std = mean, std

    @property
    def largest_short_side(self) -> int:
        """The largest short side that is used: larger frames need not be decoded."""
        return self.short_side[1]

    def __call__(self, frames: Tensor) -> Tensor:
        _check_clip(frames)
        frames = resize_short_side(frames, _draw(*self.short_side))
        top = _draw(0, frames.shape[2] - self.crop)
        left = _draw(0, frames.shape[3] - self.crop)
        frames = _crop(frames, top, left, self.crop)
        if torch.rand(()).item() < self.flip:
            frames = frames.flip(3)
        return frames.transpose(0, 1).contiguous()


class TestTransform:
    """Cut the test crops of a clip, without random choices.

    uint8 (T, 3, H, W) RGB -> uint8 (num_crops, 3, T, crop, crop). The official README's accuracies
    are measured with a short side of 256 and 3 crops of 256.

    Args:
        crop: side of the crops, pixels; "whole" takes the rescaled frame, (1, 3, T, h, w), as the
            paper's own test does (section 4).
        short_side: of the rescaled frame, pixels.
        num_crops: 1 or 3, at the places of `crop_offsets`; 6 adds the mirror images of 3 (the
            official code's crops 3 to 5); 10 are the corners and the center with their mirror
            images.
        rule: by which crops are placed, as in `crop_offsets`.
        mean, std: for `VideoDataset.normalize`.

    Raises:
        ValueError: the crop does not fit, or num_crops is another number.

    >>> clip = torch.zeros(2, 3, 30, 40, dtype=torch.uint8)
    >>> TestTransform(crop=16, short_side=16, num_crops=3)(clip).shape
    torch.Size([3, 3, 2, 16, 16])
    >>> TestTransform(crop="whole", short_side=15)(clip).shape
    torch.Size([1, 3, 2, 15, 20])
    """

    __test__ = False  # pytest would take its name for that of a test

    def __init__(
        self,
        crop: int | Literal["whole"] = 256,
        short_side: int = 256,
        num_crops: int = 1,
        mean: Colors = MEAN,
        std: Colors = STD,
        rule: str = "official",
    ) -> None:
        if num_crops not in (1, 3, 6, 10):
            raise ValueError(
                "num_crops must be 1 (center), 3 (along the longer side), 6 (with their mirror "
                f"images) or 10 (corners and center, with mirror images), not {num_crops}"
            )
        if crop == "whole":
            if num_crops != 1:
                raise ValueError(f"a whole frame is one crop, num_crops is {num_crops}: pass 1")
        elif not isinstance(crop, int) or not 1 <= crop <= short_side:
            raise ValueError(
                f"the crop must fit the short side: 1 <= crop <= short_side, "
                f'got crop {crop} and short_side {short_side}; "whole" is all of the frame'
            )
        self.crop, self.short_side, self.num_crops, self.rule = crop, short_side, num_crops, rule
        self.mean, self.std = mean, std

    @property
    def largest_short_side(self) -> int:
        """The short side that is used: larger frames need not be decoded."""
        return self.short_side

    def __call__(self, frames: Tensor) -> Tensor:
        _check_clip(frames)
        frames = resize_short_side(frames, self.short_side)
        if self.crop == "whole":
            crops = [frames]
        else:
            count = self.num_crops // 2 if self.num_crops > 3 else self.num_crops
            places = crop_offsets(*frames.shape[2:], self.crop, count, self.rule)
            crops = [_crop(frames, *place, self.crop) for place in places]
        if self.num_crops > 3:
            crops += [crop.flip(3) for crop in crops]
        return torch.stack(crops).transpose(1, 2).contiguous()


def _crop(frames: Tensor, top: int, left: int, side: int) -> Tensor:
    return frames[..., top : top + side, left : left + side]


def _draw(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()).item())


def _check_uint8(frames: Tensor) -> None:
    if frames.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8, 0 to 255, got {frames.dtype}")


def _check_clip(frames: Tensor) -> None:
    _check_uint8(frames)
    if frames.dim() != 4 or frames.shape[1] != 3:
        raise ValueError(f"a clip must be (T, 3, H, W), got {tuple(frames.shape)}")
