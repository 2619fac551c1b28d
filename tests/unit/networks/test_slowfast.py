"""Slow and SlowFast: sizes, frames, pathways, options of the blocks."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import nonlocalnet as nl
from nonlocalnet.networks.slowfast import slow_frames
from nonlocalnet.training.recipes import options_for

NARROW = {"widths": (8, 8, 16, 16), "conv1_channels": 8, "num_classes": 5}


def small(name="slowfast_8x8_r50_nl5", **options):
    torch.manual_seed(0)
    model = nl.create_model(name, **NARROW | {"clip": "16x2", "crop": 32} | options)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return model.eval()


# millions of parameters: PySlowFast's networks, counted in its code
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("slow_r50_nl5", 39.813),
        ("slowfast_8x8_r50_nl5", 41.839),
        ("slowfast_4x16_r50_nl5", 41.839),
        ("slowfast_16x8_r101_nl3", 60.080),
    ],
)
def test_networks_have_the_size_that_their_authors_state(name, millions):
    with torch.device("meta"):
        network = nl.create_model(name)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=6e-4)


# 10^9 multiply-adds for 256 x 256: SlowFast's paper, table 2; its blocks pool keys by 2x2x2
@pytest.mark.parametrize(
    ("name", "options", "cost"),
    [
        ("slowfast_4x16_r50", {}, 36.1),
        pytest.param("slowfast_16x8_r101", {}, 213, marks=pytest.mark.slow),
        pytest.param(
            "slowfast_16x8_r101_nl3", {"subsample": (2, 2, 2)}, 234, marks=pytest.mark.slow
        ),
    ],
)
def test_networks_cost_what_their_paper_states(name, options, cost):
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = nl.create_model(name, **options).eval()
        frames = int(network.config["clip"].partition("x")[0])
        network(torch.empty(1, 3, frames, 256, 256))
    assert counter.get_total_flops() / 2e9 == pytest.approx(cost, rel=2e-3)


def test_the_slow_pathway_sees_frames_from_the_first_to_the_last():
    assert slow_frames(32, 4) == [0, 4, 8, 13, 17, 22, 26, 31]
    assert slow_frames(32, 8) == [0, 10, 20, 31]
    assert slow_frames(64, 4)[:6] == [0, 4, 8, 12, 16, 21]
    assert slow_frames(4, 4) == [0]
    for frames in range(4, 129, 4):  # as torch, but where it rounds a whole number down
        assert slow_frames(frames, 4) == torch.linspace(0, frames - 1, frames // 4).long().tolist()
    with pytest.raises(ValueError, match="alpha=4 must divide the number of frames; got 30"):
        small()(torch.zeros(1, 3, 30, 32, 32))


def test_pathways_have_their_own_frames_and_join_after_each_stage():
    out = {}
    y = small().features(torch.randn(2, 3, 16, 32, 32), out)
    assert y.shape == (2, 4 * 16 + 4 * 2, 1, 1, 1)
    for name, x in out.items():
        assert x.shape[2] == (16 if name.startswith("fast.") else 4)
    assert [name for name in out if name.startswith("lateral.")] == [
        f"lateral.{part}" for part in ("pool1", "res2", "res3", "res4")
    ]
    assert out["lateral.res2"].shape[1] == 2 * out["fast.res2"].shape[1]
    averages = [out[name].mean(dim=(2, 3, 4)) for name in ("res5", "fast.res5")]
    torch.testing.assert_close(y.mean(dim=(2, 3, 4)), torch.cat(averages, dim=1))


def test_logits_map_at_the_training_crop_is_forward():
    model, x = small(), torch.randn(1, 3, 8, 32, 32)
    torch.testing.assert_close(model.logits_map(x)[..., 0, 0], model(x))
    assert model.logits_map(torch.randn(1, 3, 8, 64, 96)).shape == (1, 5, 2, 3)


def test_blocks_stand_in_either_pathway_with_options_of_their_stages():
    model = small(
        non_local={"res3": (0,), "fast.res3": (1,), "fast.res4": (0,)},
        subsample={"res3": (2, 2, 2), "fast.res3": None, "fast.res4": (1, 2, 2)},
        temporal_group={"res3": 2, "fast.res4": 8},
        pairwise="embedded_gaussian",
    )
    blocks = {n: m for n, m in model.named_modules() if isinstance(m, nl.NonLocalBlock)}
    assert {n: (m.subsample, m.temporal_group) for n, m in blocks.items()} == {
        "res3.non_local0": ((2, 2, 2), 2),
        "fast.res3.non_local1": (None, None),
        "fast.res4.non_local0": ((1, 2, 2), 8),
    }
    again = nl.create_model(**model.config)
    assert str(again) == str(model)
    x = torch.randn(1, 3, 16, 32, 32)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(x), model(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"non_local": {"quick.res3": (0,)}}, "quick.res3"),
        ({"non_local": {"fast.res3": (4,)}}, "must name blocks 0 to 3; got 4"),
        ({"beta": 3}, "beta must divide conv1_channels and all widths"),
        ({"strides": (1, 2, 2)}, "depths and strides are of the same stages; got 4 and 3"),
        ({"dilations": (1, 1)}, "depths and dilations are of the same stages; got 4 and 2"),
        ({"joined": (1, 1, 1, 1)}, "option must be"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        small(**options)


def test_gradients_reach_both_pathways():
    model = small(beta=2).train()
    model(torch.randn(2, 3, 8, 32, 32)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.ndim > 1)


def test_a_dilated_stage_keeps_its_resolution():
    model = small("c2d_r50", strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), crop=64, stem_padding=1)
    out = {}
    model.features(torch.randn(1, 3, 4, 64, 64), out)
    assert out["res5"].shape[3:] == out["res4"].shape[3:] == (4, 4)
    assert model.window == 4
    assert {b.conv_b.dilation for b in model.res5} == {(1, 2, 2)}


def test_training_takes_the_clip_of_the_network():
    assert options_for("slowfast_16x8_r101")["clip"] == "64x2"
    assert nl.create_model("slowfast_4x16_r50", **NARROW).config["clip"] == "32x2"
