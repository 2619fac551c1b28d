from typing import get_args

import pytest
import torch
from torch import nn

from nonlocalnet.blocks.norm import BlockNorm, FrozenNorm, make_norm


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_frozen_norm_is_a_folded_batch_norm(dims):
    torch.manual_seed(0)
    norm = make_norm("batch", 5, dims).double().eval()
    for value in (norm.weight.data, norm.bias.data, norm.running_mean):
        value.normal_()
    norm.running_var.uniform_(0.5, 1.5)
    frozen = make_norm("frozen", 5, dims).double()
    frozen.weight.copy_(norm.weight / (norm.running_var + norm.eps).sqrt())
    frozen.bias.copy_(norm.bias - norm.running_mean * frozen.weight)
    x = torch.randn((2, 5, 3, 4, 2)[: dims + 2], dtype=torch.float64)
    torch.testing.assert_close(frozen(x), norm(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(frozen.train()(x), frozen.eval()(x))


def test_frozen_norm_starts_as_the_identity_and_has_nothing_to_train():
    norm, x = FrozenNorm(4), torch.randn(2, 4, 3)
    assert torch.equal(norm(x), x)
    assert not list(norm.parameters())
    assert set(norm.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batch_norm_has_the_official_epsilon_and_momentum(dims):
    norm = make_norm("batch", 4, dims)
    assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1])
    assert (norm.eps, norm.momentum) == (1.0000001e-5, 0.1)  # sheet, section 1 and quirk 11


def test_every_norm_can_be_made():
    x = torch.randn(2, 4, 2, 3, 3)
    assert [make_norm(name, 4)(x).shape for name in get_args(BlockNorm)] == [x.shape] * 4


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (6, 2), (7, 1), (1, 1)])
def test_group_norm_has_32_groups_or_the_most_that_divide_both(channels, groups):
    assert make_norm("group", channels).num_groups == groups
