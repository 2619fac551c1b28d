"""What is typed after `nonlocalnet train`: recipes, overrides, --resume; and `recipes`."""

import json

import pytest

from nonlocalnet.cli import main
from nonlocalnet.data.synthetic import write_same_colour
from nonlocalnet.training.recipes import RECIPES


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_same_colour(tmp_path_factory.mktemp("videos"), 6, seed=0)


def resolved(capsys, *words):
    assert main(["train", *words, "--print-config"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_recipe_is_the_default_and_words_win(capsys):
    words = ("c2d_r101_nl5_time_32x2", "--data", "d", "--out", "o", "--batch-size", "16")
    found = resolved(capsys, *words)
    assert (found["model"], found["extent"]) == ("c2d_r101_nl5", "time")
    assert found["recipe"] == "c2d_r101_nl5_time_32x2"
    # a quarter of the clips: a quarter of the rate, four times the updates
    assert (found["lr"], found["iterations"]) == (0.0025, 1_600_000)
    assert found["lr_steps"] == [600_000, 1_200_000]


def test_a_twin_then_resume_with_nothing_retyped(videos, tmp_path, capsys):
    out = str(tmp_path / "twin")
    words = ["run_i3d_nlnet_400k", "--twin", "--data", str(videos), "--device", "cpu"]
    assert main(["train", *words, "--out", out]) == 0
    assert json.loads((tmp_path / "twin" / "config.json").read_text())["iterations"] == 4
    assert main(["train", "--resume", "--out", out, "--iterations", "5"]) == 0
    said = capsys.readouterr().err
    assert "resumed at iteration 4" in said
    assert main(["train", "--resume", "--out", out, "--lr", "1"]) == 2
    assert "lr 1.0, not 0.001" in capsys.readouterr().err.replace("\n", " ")
    assert main(["train", "c2d_r50_32x2", "--resume", "--out", out]) == 2
    assert "is a run of run_i3d_nlnet_400k, not of c2d_r50_32x2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["i3d_r50_nl6_32x2"], "did you mean 'i3d_r50_nl5_32x2'"),
        (["i3d_r50_nl5_128x1"], "starts from the network of i3d_r50_nl5_32x2"),
        (["--twin"], "--twin is of a recipe"),
        (["c2d_r50_32x2", "--init", "gone.pth"], "/d: name a data set"),
        (["--model", "c2d_tiny", "--warmup", "-1"], "warmup must be at least 0"),
    ],
)
def test_errors_of_use(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = [word for word in words[:1] if not word.startswith("-")]
    rest = words[len(recipe) :]
    assert main(["train", *recipe, "--data", "d", "--out", "o", *rest]) == 2
    assert said in capsys.readouterr().err


def test_recipes_lists_all_and_tells_one(capsys):
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in RECIPES)
    assert main(["recipes", "run_i3d_nlnet_400k_32f"]) == 0
    said = capsys.readouterr().out
    assert "torchrun --nproc-per-node 8 -m nonlocalnet train run_i3d_nlnet_400k_32f" in said
    assert "74.9 / 91.6" in said
    assert main(["recipes", "run_i3d_nlnet_400k_32f", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == [74.9, 91.6]


@pytest.mark.parametrize("model", ["c2d_tiny_nl2", "mask_rcnn_tiny_fpn_nl1"])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("pairwize=x", "did you mean 'pairwise'?"),
        ("pairwise=x", "pairwise must be one of"),
        ("num_classes=3", "num_classes is told by the data, not by --set"),
        ("clip=8x8", "clip is told by --clip, not by --set"),
    ],
)
def test_wrong_arguments_of_the_network_are_refused_before_data_is_read(
    model, option, said, capsys, tmp_path
):
    words = ("train", "--model", model, "--data", str(tmp_path), "--out", str(tmp_path / "o"))
    assert main([*words, "--set", option]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "o").exists()
