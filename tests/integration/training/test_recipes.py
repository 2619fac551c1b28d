"""Recipes against the paper's and the official code's facts, and their smoke tests run."""

import dataclasses
import math

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.zoo import list_releases
from nonlocalnet.detection.rows import BACKBONES, ROWS
from nonlocalnet.runtime.log import read_metrics
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.recipes import RECIPES, check_start, find_recipe, options_of
from nonlocalnet.training.trainer import train
from shapes import write_shapes

TABLE_2 = """
2a c2d_r50 71.8 89.7 | c2d_r50_nl1_gaussian 72.5 90.2 | c2d_r50_nl1 72.7 90.5
2a c2d_r50_nl1_dot_product 72.9 90.3 | c2d_r50_nl1_concatenation 72.8 90.5
2b c2d_r50 71.8 89.7 | c2d_r50_nl1_res2 72.7 90.3 | c2d_r50_nl1_res3 72.9 90.4
2b c2d_r50_nl1 72.7 90.5 | c2d_r50_nl1_res5 72.3 90.1
2c c2d_r50 71.8 89.7 | c2d_r50_nl1 72.7 90.5 | c2d_r50_nl5 73.8 91.0 | c2d_r50_nl10 74.3 91.2
2c c2d_r101 73.1 91.0 | c2d_r101_nl1 74.3 91.3 | c2d_r101_nl5 75.1 91.7
2c c2d_r101_nl10 75.1 91.6
2d c2d_r50 71.8 89.7 | c2d_r50_nl5_space 72.9 90.8 | c2d_r50_nl5_time 73.1 90.5
2d c2d_r50_nl5 73.8 91.0 | c2d_r101 73.1 91.0 | c2d_r101_nl5_space 74.4 91.3
2d c2d_r101_nl5_time 74.4 90.5 | c2d_r101_nl5 75.1 91.7
2e c2d_r101 73.1 91.0 | i3d3x3x3_r101 74.1 91.2 | i3d_r101 74.4 91.1 | c2d_r101_nl5 75.1 91.7
2f c2d_r50 71.8 89.7 | i3d_r50 73.3 90.7 | i3d_r50_nl5 74.9 91.6
2f c2d_r101 73.1 91.0 | i3d_r101 74.4 91.1 | i3d_r101_nl5 76.0 92.1
2g c2d_r50 73.8 91.2 | i3d_r50 74.9 91.7 | i3d_r50_nl5 76.5 92.6
2g c2d_r101 75.3 91.8 | i3d_r101 76.4 92.7 | i3d_r101_nl5 77.7 93.3
"""


def cells():
    for line in TABLE_2.strip().splitlines():
        table, rest = line[:2], line[3:]
        for cell in rest.split("|"):
            name, top1, top5 = cell.split()
            yield table, name, (float(top1), float(top5))


@pytest.mark.parametrize(("table", "name", "score"), list(cells()))
def test_every_cell_of_table_2_has_a_recipe(table, name, score):
    recipe = find_recipe(f"{name}_{'128x1' if table == '2g' else '32x2'}")
    assert table in recipe.source
    assert recipe.score == score
    # the recipe is that network, and the block counts are those of the name
    config = TrainConfig(data="d", out="o", **recipe.options)
    assert config.model in nl.list_models()
    assert (config.norm, config.batch_size) == (("frozen", 16) if table == "2g" else ("batch", 64))


def test_every_release_of_the_official_code_has_its_script_and_score():
    scripts = {name: r for name, r in RECIPES.items() if name.startswith("run_")}
    official = [r for r in list_releases() if "-nonlocal-net" in r.project and r.top1]
    assert len(scripts) == len(official) == 15
    assert sorted(r.score for r in scripts.values()) == sorted((r.top1, r.top5) for r in official)


@pytest.mark.parametrize(
    ("name", "lr", "batch", "steps", "total"),
    [  # the sheet's table of the official configs
        ("run_c2d_nlnet_400k_32f", 0.01, 64, (150_000, 300_000), 400_000),
        ("run_i3d_nlnet_affine_400k_128f", 0.0025, 16, (150_000, 300_000), 400_000),
        ("run_i3d_baseline_300k", 0.01, 64, (150_000, 250_000), 300_000),
        ("run_i3d_baseline_600k_4gpu", 0.005, 32, (300_000, 500_000), 600_000),
        ("run_i3d_baseline_300k_4gpu", 0.005, 32, (150_000, 250_000), 300_000),
        ("i3d_r101_nl5_charades", 0.00125, 8, (75_000, 150_000), 200_000),
    ],
)
def test_numbers_of_the_official_configs(name, lr, batch, steps, total):
    config = TrainConfig(data="d", out="o", **options_of(name)).resolve()
    assert (config.lr, config.batch_size, config.lr_steps, config.iterations) == (
        pytest.approx(lr),
        batch,
        steps,
        total,
    )
    assert (config.weight_decay, config.momentum, config.warmup) == (1e-4, 0.9, 0)
    assert config.precise_norm == (0 if config.norm == "frozen" else 200)


def test_charades_is_kinetics_at_288():
    config = TrainConfig(data="d", out="o", **options_of("i3d_r101_charades"))
    # the crop grows from 224 to 288, and the short side's range with it; test at 320
    assert config.short_side == (math.floor(256 * 288 / 224), math.floor(320 * 288 / 224))
    assert (config.crop, config.test_side, config.clip) == (288, 320, "128x1")


def test_the_linear_scaling_rule():
    # half the clips: half the rate, twice the updates, so the official 4-GPU recipe of 8's
    half = options_of("run_i3d_baseline_300k") | {"batch_size": 32}
    config = TrainConfig(data="d", out="o", **half).resolve()
    four = TrainConfig(data="d", out="o", **options_of("run_i3d_baseline_600k_4gpu")).resolve()
    assert config.lr == pytest.approx(four.lr)
    assert (config.iterations, config.lr_steps) == (four.iterations, four.lr_steps)
    assert config.resolve() == config  # once


def test_a_recipe_names_where_it_starts():
    config = TrainConfig(data="d", out="o", **options_of("i3d_r50_nl5_128x1"))
    with pytest.raises(ValueError, match="starts from the network of i3d_r50_nl5_32x2"):
        check_start(config)
    check_start(dataclasses.replace(config, init="mine.safetensors"))
    resnext = "a ResNeXt-152 32x8d trained on ImageNet"
    assert all(recipe.starts_from in {None, resnext, *RECIPES} for recipe in RECIPES.values())
    config = TrainConfig(data="d", out="o", **options_of("mask_rcnn_x152_fpn_nl1_2x"))
    with pytest.raises(
        ValueError, match="starts from a ResNeXt-152 32x8d trained on ImageNet; torchvision"
    ):
        check_start(config)


# box AP, mask AP; keypoint AP: paper, tables 5 and 6
TABLES_5_AND_6 = {
    "mask_rcnn_r50_fpn": (38.0, 34.6),
    "mask_rcnn_r50_fpn_nl1": (39.0, 35.5),
    "mask_rcnn_r101_fpn": (39.5, 36.0),
    "mask_rcnn_r101_fpn_nl1": (40.8, 37.1),
    "mask_rcnn_x152_fpn": (44.1, 39.7),
    "mask_rcnn_x152_fpn_nl1": (45.0, 40.3),
    "keypoint_rcnn_r101_fpn": (65.1,),
    "keypoint_rcnn_r101_fpn_nl4": (66.0,),
    "keypoint_rcnn_r101_fpn_nl5": (66.5,),
}


@pytest.mark.parametrize(("model", "score"), TABLES_5_AND_6.items())
def test_every_row_of_tables_5_and_6_has_two_recipes(model, score):
    # Detectron's schedules: 1x; 2x, of keypoints s1x
    keypoints = len(score) == 1
    longer = ("2x", 180_000, (120_000, 160_000))
    if keypoints:
        longer = ("s1x", 130_000, (100_000, 120_000))
    for schedule, updates, steps in (("1x", 90_000, (60_000, 80_000)), longer):
        recipe = find_recipe(f"{model}_{schedule}")
        assert recipe.score == score
        config = TrainConfig(data="d", out="o", **recipe.options).resolve()
        assert (config.model, config.norm, config.seed) == (model, "frozen", 0)
        assert (config.iterations, config.lr_steps) == (updates, steps)
        assert (config.lr, config.batch_size, config.weight_decay) == (0.02, 16, 1e-4)
        assert config.short_side == ((640, 800) if keypoints else (800, 800))
        assert config.test_side == 800
        assert config.init == "imagenet"


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'i3d_r50_nl5_32x2'"):
        find_recipe("i3d_r50_nl5_32x3")


def run_smoke_test(name, videos, out, **options):
    given = options_of(name, smoke_test=True) | {"workers": 0, "device": "cpu"} | options
    data = {"data": videos} if "rcnn" in name else {"data": videos / "train", "val": videos / "val"}
    config = TrainConfig(out=out, **data, **given)
    if "rcnn" not in name:
        check_start(config)
    return config, train(config)


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    write_shapes(folder, 4, seed=0, kind="person_keypoints")
    return write_shapes(folder, 4, seed=0)


IN_THE_GATE = {"c2d_r50_nl1_concatenation_32x2", "keypoint_rcnn_r101_fpn_nl5_s1x"}


@pytest.mark.parametrize(
    "name",
    [
        name if name in IN_THE_GATE else pytest.param(name, marks=pytest.mark.slow)
        for name in RECIPES
    ],
)
def test_smoke_tests(name, videos, coco, tmp_path):
    recipe, options = find_recipe(name), {}
    detector = "rcnn" in name
    if detector:
        videos = coco
    elif recipe.starts_from:
        chain = recipe.starts_from
        before = find_recipe(chain).starts_from  # Charades: from 128 frames, those from 32
        if before:
            start = run_smoke_test(before, videos, tmp_path / "a")[1].weights
            start = run_smoke_test(chain, videos, tmp_path / "b", init=str(start))[1].weights
        else:
            start = run_smoke_test(chain, videos, tmp_path / "a")[1].weights
        options["init"] = str(start)
    config, result = run_smoke_test(name, videos, tmp_path / "run", **options)
    clip = {} if detector else {"clip": config.clip}
    assert result.iteration == 4
    lines = read_metrics(config.out / "metrics.jsonl", "train")
    assert [line["lr"] for line in lines] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    model = nl.load(config.out / "best.safetensors")
    with torch.device("meta"):  # a video network of few channels: built in a fifth of the time
        few = {} if detector else {"widths": (4, 8, 16, 32), "conv1_channels": 4}
        real = nl.create_model(recipe.options["model"], **clip, **few)
    # the smoke test has the real network's blocks at the real places
    places = [
        [n for n, _ in network.named_modules() if "non_local" in n.rsplit(".", 1)[-1]]
        for network in (model, real)
    ]
    if detector:  # of another depth: right before res4's last residual block
        names = real.config["name"], config.model
        own, tiny = (BACKBONES[ROWS[name].fields["backbone"]].place for name in names)
        places[0] = [place.replace(tiny, own) for place in places[0]]
    assert places[0] == places[1]
    assert all(torch.isfinite(p).all() for p in model.state_dict().values())
