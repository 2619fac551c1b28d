import pytest
import torch

from nonlocalnet.blocks.bottleneck import Bottleneck
from nonlocalnet.blocks.shift import temporal_shift


@pytest.mark.parametrize(
    ("channels", "frames", "div"), [(16, 4, 8), (17, 3, 8), (6, 1, 3), (5, 2, 8)]
)
def test_each_frame_sees_its_neighbors(channels, frames, div):
    x = torch.randn(2, channels, frames, 3, 2, dtype=torch.float64)
    expected, n = torch.zeros_like(x), channels // div
    for t in range(frames):
        expected[:, 2 * n :, t] = x[:, 2 * n :, t]
        if t + 1 < frames:
            expected[:, :n, t] = x[:, :n, t + 1]
        if t > 0:
            expected[:, n : 2 * n, t] = x[:, n : 2 * n, t - 1]
    assert torch.equal(temporal_shift(x, div), expected)


def test_gradient():
    x = torch.randn(1, 4, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: temporal_shift(x, 4).square(), x, fast_mode=True)


def test_a_block_shifts_its_first_convolution_and_not_its_shortcut():
    torch.manual_seed(0)
    shifted, plain = (Bottleneck(16, 4, 16, shift_div=div).eval() for div in (8, None))
    plain.load_state_dict(shifted.state_dict())
    x = torch.randn(1, 16, 4, 3, 3)
    after_a = plain.norm_a(plain.conv_a(temporal_shift(x, 8))).relu()
    branch = plain.norm_c(plain.conv_c(plain.norm_b(plain.conv_b(after_a)).relu()))
    torch.testing.assert_close(shifted(x), (branch + x).relu())
    assert not torch.allclose(shifted(x), plain(x))
