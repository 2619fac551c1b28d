"""The example against a loop over pairs of pixels, and the same loop against scikit-image."""

import math
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_nl_means

EXAMPLE = Path(__file__).parents[3] / "examples" / "non_local_means.py"
example = SimpleNamespace(**runpy.run_path(str(EXAMPLE), run_name="non_local_means"))
non_local_means = example.non_local_means


def exact(rows):
    """exp of minus the distance, which comes as one part for each row of the patch."""
    return math.exp(-sum(rows))


def hasty(rows):
    """What scikit-image 0.26 computes instead, in float64.

    It stops, with weight 0, where the rows but the last come to more than 5. Its exp writes the
    exponent into the upper half of a double (N. Schraudolph, Neural Computation 11, 1999).
    """
    if sum(rows[:-1]) > 5:
        return 0.0
    upper = int(-sum(rows) * 2**20 / math.log(2)) + 1023 * 2**20 - 60801
    return float(np.int64(upper << 32).view(np.float64))


def loop(image, patch_size, h, f):
    """Non-local means of an (H, W, C) image in float64, one pair of pixels at a time."""
    height, width, channels = image.shape
    radius = patch_size // 2
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    offsets = np.arange(-radius, radius + 1)
    gauss = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * ((patch_size - 1) / 4) ** 2))
    gauss = gauss[:, :, None] / gauss.sum() / channels

    def patch(i):
        return padded[i[0] : i[0] + patch_size, i[1] : i[1] + patch_size]

    y = np.zeros_like(image)
    for i in np.ndindex(height, width):
        c = 0.0
        for j in np.ndindex(height, width):
            rows = (gauss * (patch(i) - patch(j)) ** 2 / h**2).sum((1, 2)).tolist()
            y[i] += f(rows) * image[j]
            c += f(rows)
        y[i] /= c
    return y


def an_image(channels, seed=0):
    """A bright square on a dark ground, and noise: (9, 11, C), float64."""
    image = np.full((9, 11, channels), 0.2)
    image[2:7, 3:8] = 0.8
    return image + np.random.default_rng(seed).normal(0, 0.1, image.shape)


def to_tensor(*images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def scikit(image, patch_size, h):
    """scikit-image with a window that covers the image; it has no channel axis for one channel."""
    color = image.shape[2] > 1
    y = denoise_nl_means(
        image if color else image[:, :, 0],
        patch_size,
        patch_distance=max(image.shape),
        h=h,
        fast_mode=False,
        channel_axis=2 if color else None,
    )
    return y.reshape(image.shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("patch_size", [3, 5])
def test_it_is_non_local_means(channels, patch_size):
    images = an_image(channels), an_image(channels, seed=1)
    y = non_local_means(to_tensor(*images), patch_size, 0.15)
    expected = to_tensor(*(loop(image, patch_size, 0.15, exact) for image in images))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_float32_is_enough():
    image = to_tensor(an_image(3))
    y = non_local_means(image.float(), 5, 0.1)
    torch.testing.assert_close(y.double(), non_local_means(image, 5, 0.1), rtol=0, atol=5e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("patch_size", [3, 5])
def test_the_loop_with_two_short_cuts_is_scikit_image(channels, patch_size):
    image = an_image(channels)
    expected = loop(image, patch_size, 0.15, hasty)
    np.testing.assert_allclose(scikit(image, patch_size, 0.15), expected, rtol=0, atol=1e-12)
    # the short cuts do change this image: this is no comparison of the exact with itself
    assert np.abs(expected - loop(image, patch_size, 0.15, exact)).max() > 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_where_nothing_is_dropped_scikit_image_differs_by_its_exp_alone(channels):
    image = an_image(channels).clip(0, 1)
    h = 0.5  # no distance is above 1 / h² = 4, so none reaches the 5 of the cut
    y = non_local_means(to_tensor(image), 5, h)
    # its exp is r_ij times the true one, 0.9606 <= r_ij <= 1.0197, or 0.9901 ± 0.0296. With a_ij
    # the true weights, its y_i - ours = Σ_j a_ij (r_ij - 0.9901) (x_j - y_i) / Σ_j a_ij r_ij, and
    # Σ_j a_ij |x_j - y_i|, a mean distance from the mean, is at most half the range of the x_j
    allowed = 0.0296 / 0.9606 * np.ptp(image) / 2
    assert (to_tensor(scikit(image, 5, h)) - y).abs().max() < allowed


@pytest.mark.parametrize("patch_size", [1, 4])
def test_patches_have_a_center_and_neighbors(patch_size):
    with pytest.raises(ValueError, match="odd and at least 3"):
        non_local_means(to_tensor(an_image(1)), patch_size, 0.1)


def check(printed, out):
    noisy, ours, theirs = (
        float(line.split(": ")[1].removesuffix(" dB")) for line in printed.splitlines()[:3]
    )
    assert min(ours, theirs) > noisy + 1
    assert out.read_bytes().startswith(b"\x89PNG")


def test_smoke(tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "picture.png"
    monkeypatch.setattr(sys, "argv", ["non_local_means.py", "--smoke", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert ended.value.code == 0
    check(capsys.readouterr().out, out)


def test_color(tmp_path, capsys):
    out = tmp_path / "picture.png"
    example.main(example.Options(image="astronaut", smoke=True, out=out))
    check(capsys.readouterr().out, out)
