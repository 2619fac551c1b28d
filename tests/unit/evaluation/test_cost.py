"""Parameters and multiply-adds against the recount in section 2 of the reference sheet."""

import functools

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.evaluation.cost import Cost, cost
from nonlocalnet.runtime.device import meta_device

count = functools.cache(cost)

# Sheet, 32x2: conv and fc weights in millions, multiply-adds of one 224 clip in billions.
TABLE_32X2 = {
    "c2d_r50": (24.27, 20.23),
    "c2d_r101": (43.21, 35.08),
    "i3d_r50": (27.99, 32.83),
    "i3d_r101": (51.65, 51.38),
    "i3d3x3x3_r50": (33.38, 38.69),
    "i3d3x3x3_r101": (62.94, 61.86),
    "c2d_r50_nl1": (26.37, 21.42),
    "c2d_r101_nl1": (45.31, 36.27),
    "c2d_r50_nl5": (31.61, 28.36),
    "c2d_r101_nl5": (50.55, 43.21),
    "c2d_r50_nl10": (38.95, 36.49),
    "c2d_r101_nl10": (57.89, 51.34),
    "i3d_r50_nl5": (35.33, 40.96),
    "i3d_r101_nl5": (58.99, 59.51),
}
# Sheet, the line below it: billions.
OTHER_CLIPS = [
    ("c2d_r50", "8x8", {}, 19.29),
    ("i3d_r50", "8x8", {}, 28.11),
    ("c2d_r50_nl5", "8x8", {}, 27.42),
    ("i3d_r50_nl5", "8x8", {}, 36.24),
    ("c2d_r50", "128x1", {}, 80.93),
    ("i3d_r50", "128x1", {}, 131.3),
    ("i3d_r50_nl5", "128x1", {}, 199.7),
    ("i3d_r50_nl5", "128x1", {"norm": "frozen"}, 169.5),  # res3 in groups of 4 frames
]
# Paper, table 2e: R101, relative to C2D.
TABLE_2E = {"i3d3x3x3_r101": (1.5, 1.8), "i3d_r101": (1.2, 1.5), "c2d_r101_nl5": (1.2, 1.2)}


def gate(cases, slow):
    """Mark cases slow that differ from others in one number alone."""
    return [pytest.param(*c, marks=pytest.mark.slow if c[0] in slow else ()) for c in cases]


@pytest.mark.parametrize(
    "name", gate(zip(TABLE_32X2), {n for n in TABLE_32X2 if "r101" in n or "nl10" in n})
)
def test_cost_of_a_32x2_clip(name):
    millions, billions = TABLE_32X2[name]
    given = count(name, clip="32x2")
    assert round(given.parameters / 1e6, 2) == millions
    assert round(given.multiply_adds / 1e9, 2) == billions


@pytest.mark.parametrize(
    ("name", "clip", "options", "billions"),
    [
        pytest.param(*case, marks=pytest.mark.slow if case in OTHER_CLIPS[1:6:2] else ())
        for case in OTHER_CLIPS
    ],
)
def test_cost_of_other_clips(name, clip, options, billions):
    digits = 1 if billions > 100 else 2
    assert round(count(name, clip=clip, **options).multiply_adds / 1e9, digits) == billions


@pytest.mark.parametrize("name", TABLE_2E)
def test_ratios_of_table_2e(name):
    base, given = count("c2d_r101", clip="32x2"), count(name, clip="32x2")
    ratios = given.parameters / base.parameters, given.multiply_adds / base.multiply_adds
    assert tuple(round(r, 1) for r in ratios) == TABLE_2E[name]


def test_five_blocks_cost_what_the_sheet_says():
    plain, blocks = count("c2d_r50", clip="8x8"), count("c2d_r50_nl5", clip="8x8")
    assert round((blocks.parameters - plain.parameters) / 1e6, 2) == 7.34
    assert round((blocks.multiply_adds - plain.multiply_adds) / 1e9, 2) == 8.13


def test_biases_and_norms_do_not_count():
    # conv1 1x3x3 3->16; res2 16->8->8->32 and its shortcut; res3: two blocks; res4; fc 64->5
    res2 = 16 * 8 + 9 * 8 * 8 + 8 * 32 + 16 * 32
    res3 = 32 * 32 + 9 * 32 * 32 + 32 * 128 + 32 * 128 + 128 * 32 + 9 * 32 * 32 + 32 * 128
    res4 = 128 * 16 + 9 * 16 * 16 + 16 * 64 + 128 * 64
    by_hand = 27 * 16 + res2 + res3 + res4 + 64 * 5
    for norm in ("batch", "frozen"):
        assert cost("c2d_tiny", num_classes=5, norm=norm).parameters == by_hand


def test_multiply_adds_by_hand():
    # a 2x32x32 clip: conv1 2x16x16, pool1 2x7x7, pool2 1x7x7, res3 1x4x4, res4 1x2x2
    conv1, res2 = 2 * 256 * 27 * 16, 2 * 49 * (16 * 8 + 9 * 8 * 8 + 8 * 32 + 16 * 32)
    res3 = 49 * 32 * 32 + 16 * (9 * 32 * 32 + 32 * 128 + 32 * 128)
    res3 += 16 * (128 * 32 + 9 * 32 * 32 + 32 * 128)
    res4 = 16 * 128 * 16 + 4 * (9 * 16 * 16 + 16 * 64 + 128 * 64)
    expected = conv1 + res2 + res3 + res4 + 64 * 5
    assert cost("c2d_tiny", clip="2x1", crop=32, num_classes=5).multiply_adds == expected
    # two blocks on 4x4 maps with 2x2 keys, 128 -> 64: theta, phi and g, w_z, theta·phi, a·g
    block = 16 * 128 * 64 + 2 * 4 * 128 * 64 + 16 * 64 * 128 + 2 * 16 * 4 * 64
    blocks = cost("c2d_tiny_nl2", clip="2x1", crop=32, num_classes=5)
    assert blocks.multiply_adds == expected + 2 * block


def test_counting_computes_nothing_and_leaves_the_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert isinstance(cost("c2d_tiny"), Cost)
    assert torch.equal(torch.get_rng_state(), before)


# Counted by running the peers' own networks, in millions; MMAction2 has no bias in W_z.
PEERS = [
    ("slow_r50_nl5_mmaction2", {}, 39.808, True),
    ("tsm_r50_nl5", {}, 31.682, True),
    ("tsm_r50_nl5", {"pairwise": "gaussian"}, 28.008, True),
    ("tsm_r50_nl5", {}, 31.686, False),
    ("i3d_r50_nl5", {}, 35.402, False),
    ("i3d_r50_nl10", {}, 42.760, False),
    ("i3d_r101_nl5", {}, 59.113, False),
    ("i3d_r101_nl10", {}, 66.471, False),
]


@pytest.mark.parametrize(
    ("name", "options", "millions", "without_bias"), gate(PEERS, {"i3d_r101_nl5", "i3d_r101_nl10"})
)
def test_parameters_are_those_of_the_peers(name, options, millions, without_bias):
    with meta_device():
        model = nl.create_model(name, **options)
    count = sum(
        parameter.numel()
        for key, parameter in model.named_parameters()
        if not (without_bias and key.endswith("w_z.bias"))
    )
    assert round(count / 1e6, 3) == millions


def test_segments_cost_what_mmaction2_states():
    # its README, 8 segments of 224: 32.88 and 61.30, which count norms and activations, too
    plain, blocks = (count(name).multiply_adds / 1e9 for name in ("tsm_r50", "tsm_r50_nl5"))
    assert 32.88 * 0.99 < plain < 32.88
    assert 61.30 * 0.99 < blocks < 61.30
