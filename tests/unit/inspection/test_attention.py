import math
from dataclasses import replace

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.inspection.analysis import analyze
from nonlocalnet.inspection.attention import EVEN, Attention, excess, uneven
from nonlocalnet.inspection.figure import draw_figure
from nonlocalnet.inspection.geometry import Axis
from nonlocalnet.inspection.html_page import metadata
from nonlocalnet.inspection.scene import Scene

PAIRWISE = ["embedded_gaussian", "dot_product", "concatenation"]


def test_rows_by_hand():
    rows = torch.tensor(
        [
            [0.25, 0.25, 0.25, 0.25],
            [1.0, 0, 0, 0],
            [0.5, 0.5, 0, 0],
            [3.0, 1, 3, 1],  # the sum is 8, even is 2 each: 2 of 8 have to move
            [1.0, -1, 1, -1],  # of either sign: all has to go for 0 each, 4 / 2 of 4
            [0.01, 0, 0, 0],  # next to nothing, however it lies
            [0.0, 0, 0, 0],
        ]
    )
    expected = torch.tensor([0, 3 / 4, 1 / 2, 1 / 4, 1 / 2, 0.0075, 0])
    torch.testing.assert_close(uneven(rows, 4), expected)
    more = torch.tensor([[0, 0, 0, 0], [0.75, 0, 0, 0], [0.25, 0.25, 0, 0], [1.0, 0, 1, 0]])
    torch.testing.assert_close(excess(rows[:4], 4), more)


def test_light_is_what_makes_a_row_uneven():
    torch.manual_seed(0)
    rows = (2 * torch.randn(20, 50)).softmax(1)
    torch.testing.assert_close(excess(rows, 50).sum(1), uneven(rows, 50))
    assert (excess(rows, 50) == 0).any(1).all()  # it never covers all


def test_keys_that_are_not_seen_are_no_part_of_it():
    torch.manual_seed(0)
    rows = torch.randn(5, 12)
    wide = torch.cat([rows[:, :4], torch.zeros(5, 7), rows[:, 4:]], dim=1)
    torch.testing.assert_close(uneven(wide, 12), uneven(rows, 12))
    torch.testing.assert_close(excess(wide, 12)[:, 11:], excess(rows, 12)[:, 4:])


def test_light_of_each_frame_by_hand():
    weights = torch.tensor([[0.6, 0.2, 0.1], [0.03, 0.01, 0.02], [0.0, 0, 0]]).view(3, 1, 3)
    grid = (Axis(0.5, 1, 3), Axis(0.5, 1, 1), Axis(0.5, 1, 3))
    seen = Attention("a", (0, 0, 0), grid, grid, weights, "gaussian", (3.0, 1.0, 3.0))
    within = replace(seen, each_frame=True)
    assert seen.light.flatten().tolist() == pytest.approx([1, 0.18, 0, 0, 0, 0, 0, 0, 0], abs=0.01)
    # means 0.3 and 0.02: excess 0.3, 0, 0 and 0.01, 0, 0
    assert within.light.flatten().tolist() == pytest.approx([1, 0, 0, 1, 0, 0, 0, 0, 0])


def test_each_frame_reaches_figure_and_page_and_is_for_videos(tmp_path):
    torch.manual_seed(0)
    block = nl.NonLocalBlock(4, 3, "gaussian", scale=9.0)
    clip = torch.randn(3, 4, 6, 8)
    network = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1), block)
    found = nl.look(network, clip, at=(1, 2, 3), each_frame=True)
    light = found.attention.light.flatten(1).amax(1)
    assert light.tolist() == pytest.approx([1.0] * 4)
    assert metadata(found)["blocks"][0]["each_frame"]
    figure = draw_figure(found.frames, found.attention)
    assert "relative to each frame's own" in figure.texts[-1].get_text()
    with pytest.raises(ValueError, match="each_frame is for videos"):
        nl.look(torch.nn.Sequential(nl.NonLocalBlock(3, 2)), clip[:, 0], each_frame=True)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_untrained_blocks_attend_evenly(pairwise):
    torch.manual_seed(0)
    net = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32, pairwise=pairwise)
    found = nl.look(net, torch.randint(0, 256, (3, 8, 32, 32), dtype=torch.uint8))
    assert [summary.evenly for summary, _ in found.summaries.values()] == [True, True]
    assert found.attention.attends_evenly
    assert found.evenly == "this layer attends evenly: there is nothing to see"
    assert not found.attention.light.any()
    numbers = found.statistics()
    assert numbers["point"]["evenly"]
    assert all(block["evenly"] for block in numbers["blocks"].values())


@pytest.mark.parametrize("extent", ["spacetime", "space", "time", "causal"])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_blocks_that_prefer_places_do_not(pairwise, extent):
    torch.manual_seed(0)
    block = nl.NonLocalBlock(4, 3, pairwise, extent=extent, inner_channels=4)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=2)
    found = nl.look(torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1), block), torch.randn(3, 4, 6, 6))
    assert not found.summaries["1"][0].evenly
    assert found.evenly == ""
    light = found.attention.light
    assert float(light.abs().max()) == 1
    assert (light == 0).any()
    # an extent's own keys alone are what its share is even among
    so_far = 36 * (found.attention.query[0] + 1)
    seen = {"spacetime": 144, "space": 36, "time": 4, "causal": so_far}[extent]
    assert found.attention.count == seen
    assert found.summaries["1"][0].keys == (144 if extent == "causal" else seen)
    heaviest = found.attention.weights.abs() > found.attention.weights.abs().sum() / seen
    assert torch.equal(light != 0, heaviest)


def test_a_point_can_be_even_where_its_layer_is_not():
    # Gaussian, on a map of zeros and one bright position: others score 0 with all, it does not
    x = torch.zeros(2, 4, 3, 5)
    x[:, 1, 1, 1] = 3
    net = torch.nn.Sequential(nl.NonLocalBlock(2, 3, "gaussian", scale=None))
    scene = Scene(torch.zeros(4, 3, 3, 5, dtype=torch.uint8), analyze(net, x), at=(0.5, 0.5, 0.5))
    assert not scene.summaries["0"][0].evenly
    assert scene.evenly == "this point attends evenly: there is nothing to see from here"
    bright = Scene(scene.frames, scene.analysis, at=(1.5, 1.5, 1.5))
    assert bright.evenly == ""
    mass = math.exp(18)  # of its own key, the others have 1 each
    assert float(uneven(bright.attention.weights.flatten(), 60)) == pytest.approx(
        mass / (mass + 59) - 1 / 60, rel=1e-4
    )
    assert EVEN == 0.1


@pytest.mark.parametrize("pairwise", ["gaussian", *PAIRWISE])
def test_a_look_shows_the_mean_over_heads_or_the_chosen_one(pairwise, tmp_path):
    torch.manual_seed(0)
    block = nl.NonLocalBlock(6, 3, pairwise, heads=3, inner_channels=6, extent="causal")
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=1)
    net, clip = torch.nn.Sequential(torch.nn.Conv3d(3, 6, 1), block), torch.randn(3, 4, 5, 6)
    at = (2, 4, 1)  # frame, x, y
    rows = block.affinity(net[0](clip[None]), queries=torch.tensor([2 * 30 + 1 * 6 + 4]))[0, :, 0]
    mean = nl.look(net, clip, at)
    torch.testing.assert_close(mean.attention.weights.flatten(), rows.mean(0).detach())
    assert mean.attention.count == 3 * 30
    assert not mean.attention.weights[3].any()
    assert mean.statistics()["heads"] == "the mean of 3 heads"
    for head in (1, 2, 3):
        one = nl.look(net, clip, at, head=head)
        torch.testing.assert_close(one.attention.weights.flatten(), rows[head - 1].detach())
        assert one.statistics()["heads"] == f"head {head}"
    assert "1 shows the mean of 3 heads." in mean.save(tmp_path / "mean.html").read_text()
    assert "1 shows head 3." in one.save(tmp_path / "one.html").read_text()
    for head in (0, 4):
        with pytest.raises(ValueError, match=f"head must be from 1 to 3, .* of 1; got {head}"):
            nl.look(net, clip, at, head=head)


def test_positions_of_a_causal_block_have_no_common_keys_and_even_rows_are_even():
    net = torch.nn.Sequential(nl.NonLocalBlock(3, 3, "dot_product", extent="causal"))
    net[0].theta.bias.data.fill_(1)
    net[0].phi.bias.data.fill_(1)
    net[0].theta.weight.data.zero_()
    net[0].phi.weight.data.zero_()
    summary, _ = nl.look(net, torch.randn(3, 4, 2, 2)).summaries["0"]
    assert summary.evenly
    assert summary.common is None
    # a query of frame t finds an even share of 1 / (t + 1) of its keys in its own frame
    assert summary.mean.same_frame == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert summary.mean.same_frame == pytest.approx(summary.even.same_frame)
