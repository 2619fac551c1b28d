import math

import pytest
import torch
from torch import nn

import nonlocalnet as nl
from nonlocalnet.inspection.analysis import analyze
from nonlocalnet.inspection.statistics import describe, summarize


class Given(nn.Module):
    """A network whose one block is given a map of hand-made θ and φ: a Gaussian block sees x."""

    def __init__(self, dims=3, **options):
        super().__init__()
        self.block = nl.NonLocalBlock(2, dims, "gaussian", scale=None, **options)

    def forward(self, x):
        return self.block(x)


def clip_of(*bright, size=(4, 3, 5)):
    """Zeros, and at some positions a vector of length √50: they see each other, others see all."""
    x = torch.zeros(2, *size)
    for position in bright:
        x[(slice(None), *position)] = 5.0
    return x


def flat(position, size=(4, 3, 5)):
    return (position[0] * size[1] + position[1]) * size[2] + position[2]


def test_an_even_row():
    block = analyze(Given(), clip_of()).block()
    (found,) = describe(block, [flat((1, 1, 2))])
    assert found.uneven == pytest.approx(0, abs=1e-6)
    assert found.entropy == pytest.approx(math.log(60), rel=1e-6)
    assert found.places == pytest.approx(60, rel=1e-5)
    assert found.same_frame == pytest.approx(1 / 4, rel=1e-6)
    # frames 0 to 3 seen from 1: (1 + 0 + 1 + 2) / 4
    assert found.frames == pytest.approx(1, rel=1e-6)
    distances = [math.hypot(y - 1, x - 2) for y in range(3) for x in range(5)]
    assert found.distance == pytest.approx(sum(distances) / 15, rel=1e-6)


def test_a_row_on_one_key():
    # the two bright ones score 50 with each other, 0 with all others: e^-50 is left for these
    block = analyze(Given(), clip_of((0, 0, 0), (2, 2, 1))).block()
    (found,) = describe(block, [flat((2, 2, 1))])
    # itself and the other one: half each, and an even share would leave them 1/60 each
    assert found.uneven == pytest.approx(1 - 2 / 60, rel=1e-5)
    assert found.places == pytest.approx(2, rel=1e-5)
    assert found.same_frame == pytest.approx(1 / 2, rel=1e-5)
    assert found.frames == pytest.approx(1, rel=1e-5)
    assert found.distance == pytest.approx(math.hypot(2, 1) / 2, rel=1e-5)


def test_means_even_rows_and_what_rows_have_in_common():
    block = analyze(Given(), clip_of()).block()
    summary, _ = summarize(block)
    assert summary.evenly
    assert summary.mean.places == pytest.approx(summary.even.places, rel=1e-5)
    assert summary.common == pytest.approx(1, rel=1e-5)
    assert summary.keys == summary.sampled == 60
    # frames seen from 0, 1, 2, 3: means 1.5, 1, 1, 1.5
    assert summary.even.frames == pytest.approx(1.25, rel=1e-5)


def test_common_and_own_by_hand():
    # 2 positions of 60 put half on each of themselves, 58 are even: mean row m
    block = analyze(Given(), clip_of((0, 0, 0), (2, 2, 1))).block()
    mean_bright = (58 / 60 + 2 / 2) / 60
    mean_other = (58 / 60) / 60
    even = 2 * min(1 / 60, mean_bright) + 58 * mean_other
    sharp = 2 * mean_bright
    summary, points = summarize(block)
    assert not summary.evenly  # 58 of 60 rows are, and two are not
    assert summary.mean.uneven == pytest.approx(2 * (1 - 2 / 60) / 60, rel=1e-4)
    assert summary.common == pytest.approx((58 * even + 2 * sharp) / 60, rel=1e-4)
    assert [point.query for point in points[:2]] == [(0, 0, 0), (2, 2, 1)]
    assert points[0].own == pytest.approx(1 - sharp, rel=1e-4)
    assert "93% of its attention is where the average point does not look" in points[0].reason


def test_distinctive_points_are_apart():
    torch.manual_seed(0)
    block = analyze(Given(), torch.randn(2, 10, 10, 10)).block()
    _, points = summarize(block)
    assert len(points) == 5
    assert [p.own for p in points] == sorted((p.own for p in points), reverse=True)
    for i, one in enumerate(points):
        for other in points[:i]:
            assert any(abs(a - b) >= 2 for a, b in zip(one.query, other.query, strict=True))


def test_what_an_extent_leaves_out_is_not_seen():
    block = analyze(Given(extent="space"), clip_of()).block()
    summary, _ = summarize(block)
    assert summary.keys == 15
    assert summary.even.same_frame == pytest.approx(1)
    assert summary.even.frames == 0
    assert summary.common is None


def test_images_have_no_time_and_sequences_no_picture():
    image = describe(analyze(Given(2), torch.zeros(2, 3, 5)).block(), [0])[0]
    assert (image.same_frame, image.frames) == (None, None)
    assert image.distance == pytest.approx(
        sum(math.hypot(y, x) for y in range(3) for x in range(5)) / 15, rel=1e-6
    )
    sequence = describe(analyze(Given(1), torch.zeros(2, 7)).block(), [0])[0]
    assert (sequence.same_frame, sequence.distance) == (None, None)
    assert sequence.frames == pytest.approx(3, rel=1e-6)
