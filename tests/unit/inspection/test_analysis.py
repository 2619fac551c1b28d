import pytest
import torch
from torch import nn

import nonlocalnet as nl
from nonlocalnet.blocks.rows import to_rows
from nonlocalnet.inspection.analysis import analyze

SIZES = {1: (11,), 2: (5, 7), 3: (4, 5, 7)}
PAIRWISE = ["gaussian", "embedded_gaussian", "dot_product", "concatenation"]


def block_alone(dims, **options):
    """A network that is one block, with weights that make rows differ."""
    torch.manual_seed(0)
    block = nl.NonLocalBlock(3, dims, **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return nn.Sequential(block).eval(), block


def expected_rows(block, x, size, key_size):
    """All rows on the whole map of keys, by the block's own `affinity`."""
    rows = block.affinity(x)
    group = block.temporal_group
    key_group = group // block.subsample[0] if group and block.subsample else group
    total = []
    for n, part in ((size, group), (key_size, key_group)):
        positions = torch.arange(torch.Size(n).numel()).view(1, 1, *n)
        total.append(to_rows(positions, block.extent, part).squeeze(2))
    whole = torch.zeros(torch.Size(size).numel(), torch.Size(key_size).numel())
    for b in range(len(rows)):
        whole[total[0][b].unsqueeze(1), total[1][b].unsqueeze(0)] = rows[b]
    return whole


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize(
    ("dims", "options"),
    [
        (1, {}),
        (1, {"subsample": 2, "subsample_position": "after"}),
        (2, {"subsample": 2}),
        (3, {"subsample": (1, 2, 2)}),
        (3, {"subsample": 2, "subsample_position": "after"}),
        (3, {"extent": "space", "subsample": (1, 2, 2)}),
        (3, {"extent": "time"}),
        (3, {"temporal_group": 2, "subsample": (2, 2, 2)}),
    ],
)
@torch.no_grad()
def test_rows_are_those_of_the_block(pairwise, dims, options):
    net, block = block_alone(dims, pairwise=pairwise, **options)
    x = torch.randn(1, 3, *SIZES[dims])
    found = analyze(net, x[0]).block()
    expected = expected_rows(block, x, SIZES[dims], found.key_size)
    rows = found.rows(torch.arange(len(expected)))
    torch.testing.assert_close(rows, expected)
    some = torch.tensor([3, 0, len(expected) - 1])
    torch.testing.assert_close(found.rows(some), expected[some])


@torch.no_grad()
def test_theta_and_phi_in_order_make_the_rows():
    net, _ = block_alone(3, pairwise="dot_product", extent="time", subsample=(2, 1, 1))
    found = analyze(net, torch.randn(3, *SIZES[3])).block()
    theta, phi = found.in_order()
    rows = found.rows(torch.arange(len(theta)))
    product = theta @ phi.T / found.key_rows.shape[1]
    seen = rows != 0
    assert seen.sum(1).eq(2).all()  # 4 frames, pooled by 2, at the own place
    torch.testing.assert_close(rows[seen], product[seen])


def test_a_point_is_that_of_the_nearest_position():
    net = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32)
    analysis = analyze(net, torch.rand(3, 8, 32, 32))
    # positions at 2.5 + 8 i, frames at 1 + 2 i
    assert analysis.attention((5.5, 31.5, 9.5)).query == (2, 3, 1)
    assert analysis.attention((0, 0, 0)).query == (0, 0, 0)
    with pytest.raises(ValueError, match=r"at must lie within the clip, \(8, 32, 32\)"):
        analysis.attention((8.1, 0, 0))
    with pytest.raises(ValueError, match=r"did you mean .res3\.non_local"):
        analysis.attention((0, 0, 0), block="res3.non_local7")


def test_shares_add_up_whatever_the_form():
    net, _ = block_alone(2, pairwise="dot_product")
    attention = analyze(net, torch.randn(3, 5, 7)).attention((1, 1))
    assert attention.weights.min() < 0
    assert not attention.normalized
    assert attention.shares.sum().item() == pytest.approx(1)


def test_the_mode_and_the_norms_are_left_alone():
    net = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32).train()
    before = net.norm1.running_mean.clone()
    analyze(net, torch.rand(3, 8, 32, 32))
    assert net.training
    assert torch.equal(net.norm1.running_mean, before)


def test_a_norm_that_was_frozen_by_hand_stays_frozen():
    norm = nn.BatchNorm2d(3)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nl.NonLocalBlock(3, 2)).train()
    norm.eval()
    analyze(net, torch.rand(3, 4, 4))
    assert [module.training for module in net] == [True, False, True]

    class Fails(nn.Module):
        def forward(self, x):
            raise ArithmeticError

    net.append(Fails())
    with pytest.raises(ArithmeticError):
        analyze(net, torch.rand(3, 4, 4))
    assert [module.training for module in net] == [True, False, True, True]
    assert not net[2]._forward_pre_hooks


def test_what_cannot_be_analyzed():
    with pytest.raises(ValueError, match="no non-local block"):
        analyze(nn.Conv2d(3, 3, 1), torch.rand(3, 4, 4))

    class Frames(nn.Module):
        """Gives its block frames in the batch."""

        def __init__(self):
            super().__init__()
            self.block = nl.NonLocalBlock(3, 2)

        def forward(self, x):
            return self.block(x.transpose(1, 2).flatten(0, 1))

    with pytest.raises(ValueError, match="without the batch"):
        analyze(Frames(), torch.rand(3, 2, 4, 4))
