"""nl.explain, nl.affinity and nl.look on accelerated blocks."""

import pytest
import torch
from torch import nn

import nonlocalnet as nl
import stand_ins as wild


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        wild.AttnBlock(32),
        wild.TextbookBlock(32, 2, "concatenation", True, False),
        nl.NonLocalBlock(32, dims=2, subsample=2),
    ).eval()


def test_explain_tells_of_every_block_ours_and_accelerated():
    net = network()
    nl.accelerate(net, verbose=False)
    found = nl.explain(net, torch.randn(1, 3, 32, 32))
    assert [(e.path, e.kind) for e in found] == [
        ("1", "AttnBlock"),
        ("2", "NONLocalBlock2D"),
        ("3", "NonLocalBlock"),
    ]
    assert [e.positions for e in found] == [(256, 256), (256, 64), (256, 64)]
    assert found[0].plan.matrix_bytes == 3 * 256 * 256 * 4  # the reference, in float32
    assert "1      AttnBlock        256 x 256" in str(found)


def test_explain_needs_a_block():
    with pytest.raises(ValueError, match=r"none ran: call nl\.accelerate"):
        nl.explain(nn.Sequential(nn.Conv2d(3, 3, 1)), torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match="network must run on the example"):
        nl.explain(network(), torch.randn(1, 4, 8, 8))


def test_affinity_gives_the_weights_of_the_block():
    block = wild.AttnBlock(32)
    nl.accelerate(block, verbose=False)
    x = torch.randn(1, 32, 4, 5)
    z = block.norm(x)
    q, k = block.q(z).flatten(2), block.k(z).flatten(2)
    expected = (q.mT @ k * 32**-0.5).softmax(2)
    torch.testing.assert_close(nl.affinity(block, x), expected)
    rows = nl.affinity(block, x, queries=torch.tensor([3, 7]))
    torch.testing.assert_close(rows, expected[:, [3, 7]])
    with pytest.raises(ValueError, match="affinity takes one block"):
        nl.affinity(nn.Sequential(nl.NonLocalBlock(3, 2), nl.NonLocalBlock(3, 2)), x[:, :3])


def test_look_shows_accelerated_blocks():
    net = network()
    nl.accelerate(net, verbose=False)
    clip = torch.randn(3, 16, 16)
    found = nl.look(net, clip, at=(4, 8), block="1")
    query = found.attention.query  # rows are y, columns x, with stride 2
    assert query == (4, 2)
    weights = nl.affinity(net[1], net[0](clip[None]), queries=torch.tensor([4 * 8 + 2]))
    torch.testing.assert_close(found.attention.weights.flatten(), weights.flatten())
    assert list(found.analysis.blocks) == ["1", "2", "3"]
    assert found.analysis.blocks["2"].key_size == (4, 4)


@pytest.mark.parametrize("kind", [wild.AttentionBlock, wild.HunyuanVideo15AttnBlock])
def test_look_shows_the_extent_of_video_blocks(kind):
    net = nn.Sequential(kind(3))
    nl.accelerate(net, verbose=False)
    found = nl.look(net, torch.randn(3, 4, 6, 6), at=(1, 2, 3))
    seen = found.attention.weights.flatten(1).sum(1) > 0
    causal = kind is wild.HunyuanVideo15AttnBlock
    assert seen.tolist() == [causal, True, False, False]
