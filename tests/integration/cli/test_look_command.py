import json

import pytest
import torch
from PIL import Image

import nonlocalnet as nl
import nonlocalnet.cli.look as look_command
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import main
from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.networks import create_model


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
    write_same_color(folder, 2, seed=0)
    return folder


def test_look_draws_and_prints(weights, videos, tmp_path, capsys):
    video = next(videos.rglob("*.mp4"))
    words = ["look", str(video), "--weights", str(weights), "--at", "3,10,20", "--json"]
    out = [str(tmp_path / f"look.{ending}") for ending in ("html", "png", "mp4", "json")]
    assert main([*words, "--out", *out]) == 0
    numbers = json.loads(capsys.readouterr().out)
    # frame 3 belongs to positions centerd on 3 or 5; pixel (10, 20) to (10.5, 18.5)
    assert numbers["point"]["query"] == [1, 2, 1]
    assert {path.name for path in tmp_path.iterdir()} == {
        "look.html",
        "look.png",
        "look.mp4",
        "look.json",
    }


def test_a_layer_by_its_number_and_a_moment_in_seconds(weights, videos, tmp_path, capsys):
    video = next(videos.rglob("*.mp4"))
    out = tmp_path / "look.json"
    words = ["look", str(video), "--weights", str(weights), "--out", str(out)]
    assert main([*words, "--block", "1", "--moment", "0.1s"]) == 0
    assert json.loads(out.read_text())["block"] == "res3.non_local0"
    said = capsys.readouterr().out
    # the network is as it was initialized
    assert "layer 1 of 2 (res3.non_local0): this layer attends evenly: there is nothing" in said
    assert "all, evenly" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at", "1,2"], "--at is T,X,Y"),
        (["--at", "1,2,x"], "--at is T,X,Y"),
        (["--at", "9,2,2"], "at must be a"),
        (["--out", "a.gif"], "--out must end in"),
        (["--block", "res9"], "1 (res3.non_local0), 2 (res3.non_local1); got 'res9'"),
        (["--block", "3"], "1 (res3.non_local0), 2 (res3.non_local1); got 3"),
        (["--moment", "99s"], "moment must lie in the video, which lasts"),
        (["--moment", "soon"], "or seconds such as 1.5s; got 'soon'"),
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


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    sizes = {"min_size": 64, "max_size": 100, "rpn_post_nms_top_n_test": 10}
    model = create_model("mask_rcnn_r50_fpn_nl1", num_classes=2, **sizes)
    model.info = WeightsInfo(model.config, ["background", "thing"])
    return model


@pytest.fixture
def picture(detector, tmp_path, monkeypatch):
    """An image file; the command loads the detector, whatever the weights."""
    monkeypatch.setattr(look_command, "check_weights", lambda _: None)
    monkeypatch.setattr(look_command, "load_network", lambda *_, **__: detector)
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").resize((90, 60)).save(path)
    return path


def test_look_at_an_image_with_a_detector(picture, tmp_path, capsys):
    words = ["look", str(picture), "--weights", "w", "--at", "70,20"]
    out = [str(tmp_path / f"look.{ending}") for ending in ("html", "png", "json")]
    assert main([*words, "--json", "--out", *out]) == 0
    numbers = json.loads(capsys.readouterr().out)
    # 60 x 90 become 64 x 96, a position every 16 of these from the middle of the first
    assert numbers["point"]["query"] == [round(20.5 / 15), round(70.5 / 15)]
    assert numbers["block"] == "backbone.body.layer3.4.non_local"
    assert all((tmp_path / f"look.{ending}").is_file() for ending in ("html", "png", "json"))
    assert main([*words, "--out", out[2]]) == 0
    said = capsys.readouterr().out
    assert "pixels away" in said
    assert "frame" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at", "1,2,3"], '--at is X,Y: pixel of the image; got "1,2,3"'),
        (["--at", "90,2"], "at must be a (x, y) within 60 x 90 (height x width)"),
        (["--out", "a.png", "a.mp4"], "a.mp4: only a video makes a film"),
        (["--crop"], "leave out moment and crop"),
        (
            ["--block", "layer3"],
            "1 (backbone.body.layer3.4.non_local); got 'layer3'",
        ),
    ],
)
def test_errors_of_looking_at_images(picture, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["look", str(picture), "--weights", "w", *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [picture]


def test_a_video_for_a_detector_and_an_image_for_a_video_network(
    picture, videos, weights, monkeypatch, capsys
):
    video = str(next(videos.rglob("*.mp4")))
    assert main(["look", video, "--weights", "w"]) == 2
    assert "is a video, and this network detects in images" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["look", str(picture), "--weights", str(weights)]) == 2
    assert "is an image, and this network takes videos" in capsys.readouterr().err
