import pytest

from nonlocalnet.checkpoints.translate import Rules

RULES = Rules(
    [
        ("res{s}_{i}_w", "res{s}.block{i}.weight"),
        ("conv1_w", "conv1.weight"),
        ("swap_{a}_{b}", "pawn.{b}.{a}"),
        ("first_{i}", "one.{i}"),
        ("first_1", "never"),
        ("a.b", "c+d"),
    ]
)
PAIRS = [
    ("res2_0_w", "res2.block0.weight"),
    ("res4_22_w", "res4.block22.weight"),
    ("conv1_w", "conv1.weight"),
    ("swap_1_23", "pawn.23.1"),
    ("first_1", "one.1"),
    ("a.b", "c+d"),
]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_rules_rename_both_ways(theirs, ours):
    assert RULES.to_ours(theirs) == ours
    assert RULES.to_theirs(ours) == theirs


@pytest.mark.parametrize(
    "name", ["res2_x_w", "res2_0_w_momentum", "xres2_0_w", "res2_0", "", "aXb", "conv1_w\n"]
)
def test_what_no_rule_knows_is_none(name):
    assert RULES.to_ours(name) is None


@pytest.mark.parametrize(
    "name", ["res2.block.weight", "res2Xblock0.weight", "ccd", "xconv1.weight"]
)
def test_what_no_rule_knows_is_none_backwards(name):
    assert RULES.to_theirs(name) is None


def test_rules_may_come_from_a_generator():
    rules = Rules((f"{letter}_w", f"{letter}.weight") for letter in "ab")
    assert (rules.to_ours("b_w"), rules.to_theirs("a.weight")) == ("b.weight", "a_w")
