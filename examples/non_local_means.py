"""Denoise an image with non-local means, as one call of the paper's non-local operation.

The operation generalizes the non-local means of Buades, Coll and Morel (CVPR 2005): a pixel becomes
the mean of all pixels, weighted by how much the patches around them look like the patch around it.
Nothing is learned: theta and phi are the patches, g the pixels, f a Gaussian of their distance.

Beside it, scikit-image's non-local means with a window that covers the image. Its weights are the
same but for two short cuts: exp is approximate, and weights below about exp(-5) are dropped. In a
whole image the dropped ones add up: the two differ by some tenths of a dB, either way.

Prints peak signal-to-noise ratios and times on one thread, and draws the images side by side.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import skimage.data
import torch
import tyro
from matplotlib.figure import Figure
from skimage.restoration import denoise_nl_means
from skimage.transform import resize
from torch import Tensor
from torch.nn import functional

import nonlocalnet as nl


@dataclass(frozen=True)
class Options:
    """Options of the example."""

    out: Path = Path("demo/non_local_means.png")
    """Picture to write."""
    image: Literal["camera", "astronaut"] = "camera"
    """scikit-image's gray photographer or its astronaut in color."""
    side: int = 128
    """Width and height it is reduced to; each of the side² pixels is compared with all of them."""
    noise: float = 0.1
    """Standard deviation of the noise added; black is 0, white 1."""
    patch_size: int = 7
    """Width of a patch, odd."""
    h: float = 0.09
    """Patches that differ by much more weigh nothing; a little below the noise is good."""
    smoke: bool = False
    """A tiny image, to see that it runs."""


def non_local_means(images: Tensor, patch_size: int, h: float) -> Tensor:
    """Compute y_i = 1/C(x) · Σ_j exp(-|p_i - p_j|² / h²) x_j, with p_i the patch around pixel i.

    As an inner product, -|p_i - p_j|² = 2 (p_iᵀp_j - |p_j|² / 2) - |p_i|². The last term cancels in
    the softmax; the one before is one more channel, for which theta is 1.

    The noise's variance, which later versions subtract from every distance, cancels as well; they
    differ only by setting to zero what gets negative, and that is no inner product.

    Args:
        images: (B, C, H, W), any number of channels.
        patch_size: odd, at least 3. Within a patch, squared differences are averaged over channels
            and by a Gaussian with a standard deviation of (patch_size - 1) / 4 pixels.
        h: the distance of two patches at which f has fallen to exp(-1), in units of the pixels.

    Returns:
        (B, C, H, W).
    """
    if patch_size < 3 or patch_size % 2 == 0:
        raise ValueError(f"patch_size must be odd and at least 3; got {patch_size}")
    channels, radius = images.shape[1], patch_size // 2
    padded = functional.pad(images, [radius] * 4, mode="reflect")
    patches = functional.unfold(padded, patch_size).transpose(1, 2)  # (B, HW, C * patch_size²)

    offsets = torch.arange(-radius, radius + 1).to(images)
    weights = (-2 * (offsets / radius) ** 2).softmax(0)
    weights = torch.outer(weights, weights).flatten() / channels
    p = patches * weights.sqrt().repeat(channels)

    squares = p.square().sum(2, keepdim=True)
    theta = torch.cat([p, torch.ones_like(squares)], dim=2)
    phi = torch.cat([p, -squares / 2], dim=2)
    g = images.flatten(2).transpose(1, 2)  # (B, HW, C)
    y = nl.non_local(theta, phi, g, pairwise="gaussian", scale=2 / h**2)
    return y.transpose(1, 2).reshape(images.shape)


def main(options: Options) -> int:
    torch.set_num_threads(1)  # as scikit-image
    side = 32 if options.smoke else options.side
    clean = resize(getattr(skimage.data, options.image)(), (side, side), anti_aliasing=True)
    noise = np.random.default_rng(0).normal(0, options.noise, clean.shape)
    clean, noisy = clean.astype(np.float32), (clean + noise).astype(np.float32)

    def ours() -> np.ndarray:
        images = torch.from_numpy(np.atleast_3d(noisy)).permute(2, 0, 1).unsqueeze(0)
        y = non_local_means(images, options.patch_size, options.h)
        return y[0].permute(1, 2, 0).reshape(noisy.shape).numpy()

    def theirs() -> np.ndarray:
        return denoise_nl_means(
            noisy,
            options.patch_size,
            patch_distance=side,
            h=options.h,
            fast_mode=False,  # the fast one has no Gaussian within the patch
            channel_axis=2 if noisy.ndim == 3 else None,
        )

    shown = {"clean": clean, f"noisy\n{psnr(clean, noisy)}": noisy}
    for name, denoise in {"nl.non_local": ours, "scikit-image": theirs}.items():
        started = time.monotonic()
        image = denoise()
        seconds = time.monotonic() - started
        shown[f"{name}, {seconds:.1f} s\n{psnr(clean, image)}"] = image
    for title in list(shown)[1:]:
        print(title.replace("\n", ": "))

    figure = Figure(figsize=(3 * len(shown), 3.6), dpi=120, layout="compressed")
    for axis, (title, image) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        axis.imshow(image.clip(0, 1), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out)
    print(options.out)
    return 0


def psnr(clean: np.ndarray, image: np.ndarray) -> str:
    """Write the peak signal-to-noise ratio; the peak is 1."""
    return f"{-10 * np.log10(np.square(image - clean).mean()):.2f} dB"


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
