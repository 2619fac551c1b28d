"""The table of networks against the tables of the paper and of its official code."""

import functools
import itertools
from typing import get_args

import pytest
import torch
from torch import nn

import nonlocalnet as nl
from nonlocalnet.blocks import NonLocalBlock
from nonlocalnet.blocks.non_local_block import SubsamplePosition
from nonlocalnet.blocks.norm import FrozenNorm
from nonlocalnet.clips import CLIPS
from nonlocalnet.networks import VideoResNet, register
from nonlocalnet.ops import Pairwise
from nonlocalnet.options import Extent

FORMS, EXTENTS, POSITIONS = (get_args(t) for t in (Pairwise, Extent, SubsamplePosition))


NARROW = {"widths": (4, 8, 16, 32), "conv1_channels": 4}


def on_meta(name, **options) -> VideoResNet:
    with torch.device("meta"):
        return nl.create_model(name, **options)


@functools.cache
def narrow(name, **options) -> VideoResNet:
    """Build a network of few channels: five times as fast as one of full size on meta."""
    return nl.create_model(name, **NARROW, **options)


def places(model) -> dict[str, list[int]]:
    """After which blocks of each stage a non-local block stands, read off the modules' order."""
    found = {}
    for name, stage in model.named_children():
        if not name.startswith("res"):
            continue
        count, after = 0, []
        for block in stage.children():
            if isinstance(block, NonLocalBlock):
                after.append(count - 1)
            else:
                count += 1
        if after:
            found[name] = after
    return found


# Sheet, section 2, "Placement rule". R101's ten blocks are only said to be 4 in res3 and 6 in res4.
SHEET_PLACES = {
    "r50": {"res4": [4]},
    "r101": {"res4": [21]},
    "r50_nl5": {"res3": [1, 3], "res4": [1, 3, 5]},
    "r101_nl5": {"res3": [1, 3], "res4": [6, 13, 20]},
    "r50_nl10": {"res3": [0, 1, 2, 3], "res4": [0, 1, 2, 3, 4, 5]},
}


@pytest.mark.parametrize("family", ["c2d", "i3d", "i3d3x3x3"])
def test_blocks_stand_where_the_paper_puts_them(family):
    for depth in ("r50", "r101"):
        assert places(narrow(f"{family}_{depth}")) == {}
        assert places(narrow(f"{family}_{depth}_nl1")) == SHEET_PLACES[depth]
        assert places(narrow(f"{family}_{depth}_nl5")) == SHEET_PLACES[f"{depth}_nl5"]
    assert places(narrow(f"{family}_r50_nl10")) == SHEET_PLACES["r50_nl10"]
    ten = places(narrow(f"{family}_r101_nl10"))
    assert {stage: len(after) for stage, after in ten.items()} == {"res3": 4, "res4": 6}


@pytest.mark.parametrize("depth", ["r50", "r101"])
@pytest.mark.parametrize(("stage", "after"), [("res2", 1), ("res3", 2), ("res5", 1)])
def test_single_block_stands_before_the_last_residual_block(depth, stage, after):
    assert places(narrow(f"c2d_{depth}_nl1_{stage}")) == {stage: [after]}


def kernels(model, conv) -> dict[str, list[int]]:
    return {
        name: [getattr(b, conv).kernel_size[0] for n, b in stage.named_children() if "block" in n]
        for name, stage in model.named_children()
        if name.startswith("res")
    }


# Sheet, section 2, "Temporal kernels".
INFLATED = {
    "r50": {
        "res2": [3, 3, 3],
        "res3": [3, 1, 3, 1],
        "res4": [3, 1, 3, 1, 3, 1],
        "res5": [1, 3, 1],
    },
    "r101": {
        "res2": [3, 3, 3],
        "res3": [3, 1, 3, 1],
        "res4": [3, 1] * 11 + [3],
        "res5": [1, 3, 1],
    },
}


@pytest.mark.parametrize("depth", INFLATED)
def test_temporal_kernels(depth):
    flat = {stage: [1] * len(row) for stage, row in INFLATED[depth].items()}
    for suffix in ("", "_nl5"):
        c2d, i3d = narrow(f"c2d_{depth}{suffix}"), narrow(f"i3d_{depth}{suffix}")
        cube = narrow(f"i3d3x3x3_{depth}{suffix}")
        assert (kernels(c2d, "conv_a"), kernels(c2d, "conv_b")) == (flat, flat)
        assert (kernels(i3d, "conv_a"), kernels(i3d, "conv_b")) == (INFLATED[depth], flat)
        assert (kernels(cube, "conv_a"), kernels(cube, "conv_b")) == (flat, INFLATED[depth])
        assert c2d.conv1.kernel_size == (1, 7, 7)
        assert i3d.conv1.kernel_size == cube.conv1.kernel_size == (5, 7, 7)


# Sheet, section 2, "Output sizes" and the line on 256 crops: frames, then the side at 224 and 256.
CHANNELS = {"conv1": 64, "pool1": 64, "res2": 256, "pool2": 256}
CHANNELS |= {"res3": 512, "res4": 1024, "res5": 2048}
SIDES = {
    224: {"conv1": 112, "pool1": 55, "res2": 55, "pool2": 55, "res3": 28, "res4": 14, "res5": 7},
    256: {"conv1": 128, "pool1": 63, "res2": 63, "pool2": 63, "res3": 32, "res4": 16, "res5": 8},
}
FRAMES = {"8x8": (8, 8, 4), "32x2": (16, 8, 4), "32x4": (32, 32, 16), "128x1": (64, 32, 16)}


@pytest.mark.parametrize(
    ("name", "clip", "crop"),
    [*(("i3d_r50_nl5", clip, 224) for clip in FRAMES), ("c2d_r50", "8x8", 256)],
)
def test_feature_maps_have_the_sizes_of_the_table(name, clip, crop):
    model, out = on_meta(name, clip=clip), {}
    frames = int(clip.split("x")[0])
    model.features(torch.empty(1, 3, frames, crop, crop, device="meta"), out)
    conv1, pool1, rest = FRAMES[clip]
    times = dict.fromkeys(CHANNELS, rest) | {"conv1": conv1, "pool1": pool1, "res2": pool1}
    side = SIDES[crop]
    expected = {n: (1, CHANNELS[n], times[n], side[n], side[n]) for n in CHANNELS}
    assert {n: tuple(out[n].shape) for n in CHANNELS} == expected


def test_every_clip_of_the_paper_is_in_the_table():
    assert set(CLIPS) == set(FRAMES)


def test_padded_stem_gives_the_sizes_of_torchvision():
    model, out = on_meta("c2d_r50", stem_padding=1), {}
    model.features(torch.empty(1, 3, 8, 224, 224, device="meta"), out)
    assert out["pool1"].shape[3:] == (56, 56)
    assert out["res5"].shape[3:] == (7, 7)


@pytest.mark.parametrize("name", nl.list_models("?[23]d_tiny*") + nl.list_models("*small*"))
def test_small_networks_run(name):
    model = nl.create_model(name, num_classes=5, clip="8x2", crop=32)
    assert model(torch.randn(1, 3, 8, 32, 32)).shape == (1, 5)
    assert sum(map(len, places(model).values())) == (2 if name.endswith("_nl2") else 0)


def test_network_is_in_its_own_field_unless_told():
    model = on_meta("c2d_r50_nl5")
    block = model.res3.non_local1
    assert (block.channels, block.inner_channels, block.scale) == (512, 256, 1 / 16)
    assert (block.subsample, block.subsample_position) == ((1, 2, 2), "before")
    assert (block.pairwise, block.extent) == ("embedded_gaussian", "spacetime")
    assert block.temporal_group is None
    assert block.g.bias is not None
    assert isinstance(block.norm, nn.BatchNorm3d)
    assert model.dropout.p == 0.5
    assert model.fc.weight.shape == (400, 2048)


def test_options_reach_every_block():
    given = {"pairwise": "gaussian", "scale": None, "subsample_position": "after"}
    model = narrow("c2d_r50_nl5", **given, extent="space", dropout=0.25, temporal_stride=2)
    for block in (m for m in model.modules() if isinstance(m, NonLocalBlock)):
        assert {name: getattr(block, name) for name in given} == given
        assert block.extent == "space"
    assert model.dropout.p == 0.25
    assert model.conv1.stride == (2, 2, 2)


def test_time_extent_pools_no_places():
    model = narrow("c2d_r50_nl1", extent="time")
    assert model.res4.non_local4.subsample is None
    model = narrow("c2d_r50_nl1", extent="time", subsample=(2, 1, 1))
    assert model.res4.non_local4.subsample == (2, 1, 1)


def test_places_can_be_given():
    model = nl.create_model("c2d_r50", **NARROW, non_local={"res3": (1,), "res5": (0, 2)})
    assert places(model) == {"res3": [1], "res5": [0, 2]}


@pytest.mark.parametrize("clip", ["32x4", "128x1"])
def test_frozen_network_has_no_batch_norm_and_groups_res3_only(clip):
    model = narrow("i3d_r50_nl5", clip=clip, norm="frozen")
    kinds = {type(m) for m in model.modules()}
    assert FrozenNorm in kinds
    assert not any(issubclass(kind, nn.modules.batchnorm._NormBase) for kind in kinds)
    assert not [n for n, _ in model.named_parameters() if "norm" in n]
    found = {
        name: (block.temporal_group, block.norm)
        for name, block in model.named_modules()
        if isinstance(block, NonLocalBlock)
    }
    in_res3, in_res4 = (4, None), (None, None)  # sheet, section 1, "Grouped variant"
    assert found == {
        "res3.non_local1": in_res3,
        "res3.non_local3": in_res3,
        "res4.non_local1": in_res4,
        "res4.non_local3": in_res4,
        "res4.non_local5": in_res4,
    }
    ungrouped = narrow("i3d_r50_nl5", clip=clip, norm="frozen", temporal_group=None)
    assert ungrouped.res3.non_local1.temporal_group is None


CASES = [*((form, position, "spacetime", "batch") for form in FORMS for position in POSITIONS)]
CASES += [("embedded_gaussian", "before", extent, "batch") for extent in EXTENTS[1:]]


@pytest.mark.parametrize(
    ("pairwise", "position", "extent", "norm"), [*CASES, (*CASES[0][:3], "frozen")]
)
def test_inserting_blocks_leaves_the_logits_unchanged(pairwise, extent, position, norm):
    torch.manual_seed(0)
    options = {"num_classes": 5, "clip": "8x2", "crop": 32, "norm": norm, "dropout": 0.0}
    # frames stay apart for causal blocks, with and without them
    plain = nl.create_model("i3d_tiny", extent=extent, **options)
    for module in plain.modules():  # the residual branches are awake, too
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    block = {"pairwise": pairwise, "extent": extent, "subsample_position": position}
    model = nl.create_model("i3d_tiny_nl2", **options, **block)
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert missing
    assert all("non_local" in key for key in missing)
    assert not unexpected
    x = torch.randn(2, 3, 8, 32, 32)
    assert torch.equal(model(x), plain(x))
    assert torch.equal(model.eval()(x), plain.eval()(x))
    for module in model.modules():
        if isinstance(module, NonLocalBlock):
            nn.init.normal_(module.w_z.weight, std=0.1)
            if module.norm is not None:
                nn.init.ones_(module.norm.weight)
    assert not torch.equal(model(x), plain(x))


@pytest.mark.parametrize("extent", ["space", "time"])
def test_frozen_networks_have_every_extent(extent):
    model = narrow("i3d_r50_nl5", clip="32x4", norm="frozen", extent=extent)
    block = model.res3.non_local1
    assert (block.extent, block.temporal_group) == (extent, None)


def test_new_networks_start_as_the_official_ones():
    torch.manual_seed(0)
    model = nl.create_model("c2d_small_nl2", num_classes=1000)
    block = model.res3.block0
    assert block.norm_c.weight.abs().max() == 0
    assert block.norm_a.weight.min() == block.shortcut.norm.weight.min() == 1
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert model.fc.bias.abs().max() == 0
    fan_out = 32 * 9  # conv_b of res3: 32 channels, 1x3x3
    assert block.conv_b.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip": "32x2", "crop": 64, "num_classes": 7},
        {"pairwise": "dot_product", "extent": "space", "subsample": None, "scale": None},
        {"norm": "frozen", "stem_padding": 1, "non_local": {"res4": (0,)}},
    ],
)
def test_config_builds_the_same_network_again(options):
    torch.manual_seed(0)
    model = nl.create_model("i3d_tiny_nl2", **options).eval()
    again = nl.create_model(**model.config).eval()
    assert str(again) == str(model)
    again.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 8, 80, 80)
    assert torch.equal(again(x), model(x))
    assert torch.equal(again.logits_map(x), model.logits_map(x))
    assert again.config == model.config


def test_names_are_listed_by_pattern_in_the_order_of_the_table():
    names = nl.list_models()
    assert len(names) == len(set(names))
    assert nl.list_models("i3d_r101_nl[15]") == ["i3d_r101_nl1", "i3d_r101_nl5"]
    assert nl.list_models("*nl5*") == [name for name in names if "nl5" in name]
    assert nl.list_models("no_such_*") == []
    stem = itertools.product(("c2d", "i3d", "i3d3x3x3"), ("r50", "r101"), ("", "_nl1", "_nl5"))
    assert {f"{family}_{depth}{blocks}" for family, depth, blocks in stem} <= set(names)


def test_every_row_builds():
    for name in nl.list_models("[ci][23]d*"):
        build = narrow if "_r" in name else nl.create_model
        assert build(name, num_classes=3).fc.out_features == 3


def test_taken_name_raises_and_keeps_the_row():
    before = str(nl.create_model("c2d_tiny"))
    with pytest.raises(ValueError, match="'c2d_tiny' is in the table already"):
        register("c2d_tiny", {"depths": (1, 1, 1)})
    assert str(nl.create_model("c2d_tiny")) == before


def test_own_network_can_be_registered(monkeypatch):
    rows = {}
    monkeypatch.setattr("nonlocalnet.networks.registry.table", lambda: rows)
    register("mine", {"depths": (1, 1), "widths": (4, 4), "conv1_channels": 4})
    assert nl.list_models() == ["mine"]
    assert nl.create_model("mine", num_classes=2)(torch.randn(1, 3, 2, 32, 32)).shape == (1, 2)


WRONG = [
    ({"name": "c2d_r50_nl6"}, ["model", "'c2d_r50_nl6'", "did you mean 'c2d_r50_nl"]),
    ({"name": "I3D_R50"}, ["model", "'I3D_R50'"]),
    ({"clip": "8by8"}, ["clip", "FRAMESxRATE", "'8x8'", "'128x1'", "'8by8'"]),
    ({"clip": "0x2"}, ["clip", "'0x2'"]),
    ({"clip": "8x8 "}, ["clip", "'8x8 '"]),
    ({"pairwize": "gaussian"}, ["option", "'pairwize'", "did you mean 'pairwise'"]),
    ({"pairwise": "gausian"}, ["pairwise", "'gausian'", "did you mean 'gaussian'"]),
    ({"norm": "bach"}, ["norm", "'bach'", "'batch'", "'frozen'"]),
    ({"extent": "tme"}, ["extent", "'tme'", "did you mean 'time'"]),
    ({"non_local": {"res6": (0,)}}, ["non_local", "'res6'", "'res5'"]),
    ({"non_local": {"res3": (4,)}}, ["non_local['res3']", "0 to 3", "4"]),
    ({"non_local": {"res3": (-1,)}}, ["non_local['res3']", "0 to 3", "-1"]),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_wrong_argument_is_named_with_what_is_allowed(change, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are the check)
        on_meta(**({"name": "c2d_r50_nl1"} | change))
    assert [word for word in words if word not in str(error.value)] == []


def test_number_of_classes_is_an_argument_not_an_option():
    assert nl.create_model("c2d_tiny", num_classes=3).fc.out_features == 3


def test_a_row_has_the_same_rules_as_options(monkeypatch):
    from nonlocalnet.networks import registry

    rows = dict(registry.table())
    monkeypatch.setattr(registry, "table", lambda: rows)
    base = rows["c2d_tiny_nl2"].fields
    for options in ({"norm": "frozen"}, {"extent": "time"}, {"stem_padding": 1}):
        name = "row_" + "_".join(options)
        registry.register(name, {**base, **options})
        row = nl.create_model(name, num_classes=2, clip="8x1", crop=32)
        given = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32, **options)
        assert row.window == given.window
        assert str(row) == str(given)
