import json

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.cli import main
from nonlocalnet.data.synthetic import write_same_colour
from nonlocalnet.models.weights import WeightsInfo, save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(model, path, WeightsInfo(model.config, ["a", "b"], short_side=32))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_same_colour(folder, 2, seed=0)
    return folder


def test_look_draws_and_prints(weights, videos, tmp_path, capsys):
    video = next(videos.rglob("*.mp4"))
    words = ["look", str(video), "--weights", str(weights), "--at", "3,10,20", "--json"]
    out = [str(tmp_path / f"look.{ending}") for ending in ("html", "png", "mp4", "json")]
    assert main([*words, "--out", *out]) == 0
    numbers = json.loads(capsys.readouterr().out)
    # frame 3 belongs to positions centred on 3 or 5; pixel (10, 20) to (10.5, 18.5)
    assert numbers["point"]["query"] == [1, 2, 1]
    assert {path.name for path in tmp_path.iterdir()} == {
        "look.html",
        "look.png",
        "look.mp4",
        "look.json",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at", "1,2"], "--at is T,X,Y"),
        (["--at", "1,2,x"], "--at is T,X,Y"),
        (["--at", "9,2,2"], "at must be a"),
        (["--out", "a.gif"], "--out must end in"),
        (["--block", "res9"], "block must be one of"),
        (["--top", "0"], "--top must be at least 1"),
        (["--moment", "2"], "moment must be from 0"),
    ],
)
def test_errors_of_looking(weights, videos, capsys, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video = next(videos.rglob("*.mp4"))
    assert main(["look", str(video), "--weights", str(weights), *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
