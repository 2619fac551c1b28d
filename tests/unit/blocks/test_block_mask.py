"""Clips and images padded to one size: the padding is seen by nobody."""

import itertools
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

import nonlocalnet as nl
from nonlocalnet.blocks.non_local_block import SubsamplePosition
from nonlocalnet.ops import Pairwise

FORMS, POSITIONS = get_args(Pairwise), get_args(SubsamplePosition)


def awake(*arguments, **options) -> nl.NonLocalBlock:
    block = nl.NonLocalBlock(*arguments, **options).double().eval()
    rng = torch.Generator().manual_seed(1)
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return block


def padded(x, size, value=0.0):
    """x (1, C, ...) in the corner of a larger map of `value`, and the mask of the real part."""
    big = torch.full((*x.shape[:2], *size), value, dtype=x.dtype)
    mask = torch.zeros(1, *size, dtype=torch.bool)
    corner = tuple(slice(0, s) for s in x.shape[2:])
    big[(..., *corner)] = x
    mask[(..., *corner)] = True
    return big, mask, corner


def noise(*size):
    return torch.randn(1, 6, *size, generator=torch.Generator().manual_seed(0)).double()


def same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("value", [0.0, 1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("subsample", [None, (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("pairwise", FORMS)
def test_padded_clip_equals_the_clip(pairwise, position, subsample, value):
    block = awake(6, 3, pairwise, subsample=subsample, subsample_position=position)
    x = noise(2, 4, 2)
    big, mask, corner = padded(x, (4, 6, 4), value)
    same(block(big, mask=mask)[(..., *corner)], block(x))


@pytest.mark.parametrize(
    ("extent", "group", "subsample"),
    [
        ("space", None, (1, 2, 2)),
        ("time", None, (2, 1, 1)),
        ("spacetime", 2, (1, 2, 2)),
        ("causal", None, (1, 2, 2)),
    ],
)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("pairwise", FORMS)
def test_padded_clip_equals_the_clip_in_each_extent(pairwise, position, extent, group, subsample):
    block = awake(
        6, 3, pairwise, extent=extent, temporal_group=group, subsample=subsample,
        subsample_position=position,
    )  # fmt: skip
    x = noise(2, 4, 2)
    big, mask, corner = padded(x, (4, 6, 4), float("nan"))
    same(block(big, mask=mask)[(..., *corner)], block(x))


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("position", POSITIONS)
def test_padded_sequences_and_images(dims, position):
    block = awake(6, dims, subsample=2, subsample_position=position)
    x = noise(*(4, 2)[:dims])
    big, mask, corner = padded(x, (8, 6)[:dims])
    same(block(big, mask=mask)[(..., *corner)], block(x))


def test_samples_of_a_batch_have_their_own_padding():
    block = awake(6, 2, subsample=2)
    small, large = noise(2, 4), noise(6, 4)
    big, mask, corner = padded(small, (6, 4), 7.0)
    z = block(torch.cat([big, large]), mask=torch.cat([mask, torch.ones_like(mask)]))
    same(z[:1][(..., *corner)], block(small))
    same(z[1:], block(large))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("pairwise", FORMS)
def test_partly_padded_cell_is_real_and_takes_its_real_maximum(pairwise, position):
    block = awake(6, 2, pairwise, subsample=2, subsample_position=position, norm=None)
    x = noise(3, 3)
    big, mask, _ = padded(x, (6, 4), 1e6)

    def pool(x):
        """The maximum over the real positions of each cell that has one, cell by cell."""
        cells = []
        for i, j in itertools.product((0, 1), (0, 1)):
            cells.append(x[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].amax((2, 3)))
        return torch.stack(cells, 2)

    def project(conv, x):
        return x if conv is None else conv(x)

    theta = project(block.theta, x).flatten(2).mT
    if position == "before":
        keys = pool(x).unsqueeze(3)
        phi, g = project(block.phi, keys).squeeze(3), block.g(keys).squeeze(3)
    else:
        phi, g = pool(project(block.phi, x)), pool(block.g(x))
    extra = {"w_f": block.w_f} if pairwise == "concatenation" else {"scale": block.scale}
    y = nl.non_local(theta, phi.mT, g.mT, pairwise, **extra)
    expected = block.w_z(y.mT.unflatten(2, (3, 3))) + x
    same(block(big, mask=mask)[..., :3, :3], expected)
    assert block.affinity(big, mask=mask)[..., 4:].abs().max() == 0


def test_mask_of_all_real_positions_changes_nothing():
    block, x = awake(6, subsample=(1, 2, 2)), noise(2, 5, 4)
    same(block(x, mask=torch.ones(1, 2, 5, 4, dtype=torch.bool)), block(x))


@pytest.mark.parametrize("pairwise", FORMS)
def test_sample_of_padding_alone_stays_finite(pairwise):
    block = awake(6, 3, pairwise, subsample=(1, 2, 2))
    x = noise(2, 4, 4).requires_grad_()
    z = block(x, mask=torch.zeros(1, 2, 4, 4, dtype=torch.bool))
    same(z, block.norm(block.w_z(torch.zeros(1, 3, 2, 4, 4).double())) + x)
    z.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("position", POSITIONS)
def test_padding_gets_no_gradient_from_real_positions(position):
    block = awake(6, 2, subsample=2, subsample_position=position)
    big, mask, corner = padded(noise(2, 4), (4, 6))
    big.requires_grad_()
    block(big, mask=mask)[(..., *corner)].square().sum().backward()
    assert big.grad[:, :, ~mask[0]].abs().max() == 0
    assert big.grad[:, :, mask[0]].abs().min() > 0


def test_affinity_of_a_masked_clip_equals_that_of_the_clip():
    block = awake(6, 2, subsample=2)
    x = noise(2, 4)
    big, mask, _ = padded(x, (4, 6))
    seen = F.max_pool2d(mask[:, None].double(), 2).flatten().bool()
    a = block.affinity(big, queries=torch.tensor([0, 6]), mask=mask)
    same(a[:, :, seen], block.affinity(x, queries=torch.tensor([0, 4])))
    assert a[:, :, ~seen].abs().max() == 0
