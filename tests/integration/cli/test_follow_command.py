"""`nonlocalnet follow` and `look` with an image classifier, on a video in which a square moves."""

import csv
import json

import numpy as np
import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints import features
from nonlocalnet.cli import main
from nonlocalnet.data.video.reader import decode_all, open_reader
from nonlocalnet.data.video.write import write_video
from nonlocalnet.inspection import follow as module
from nonlocalnet.networks import create_model

FRAMES, STEP = 6, 8  # the square moves by a position of res4 from frame to frame


def square(t):
    """The center of the square, x and y."""
    return 12 + STEP * t, 20


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Frames twice as large as the video, not ten times."""
    monkeypatch.setattr(features, "SHORT_SIDE", 96)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    rng = np.random.default_rng(0)
    frames = np.full((FRAMES, 48, 80, 3), 90, dtype=np.uint8)
    frames += rng.integers(0, 9, frames.shape[1:], dtype=np.uint8)
    for t in range(FRAMES):
        frames[t, 32:40, 64:72] = (30, 200, 60)
        x, y = square(t)
        frames[t, y - 4 : y + 4, x - 4 : x + 4] = (250, 30, 30)
    path = tmp_path_factory.mktemp("video") / "square.mp4"
    write_video(path, frames, fps=8)
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """An image classifier as torchvision names it, with few channels: random, but not flat."""
    torch.manual_seed(0)
    network = create_model(
        "c2d_r50", depths=(1, 1, 1, 1), widths=(4, 4, 8, 8), conv1_channels=8, num_classes=3
    )
    words = {"norm1": "bn1", "shortcut.conv": "downsample.0", "shortcut.norm": "downsample.1"}
    words |= {f"{k}_{b}": f"{v}{i}" for i, b in enumerate("abc", 1) for k, v in NAMES.items()}
    words |= {f"res{stage}.block0": f"layer{stage - 1}.0" for stage in (2, 3, 4, 5)}
    state = {}
    for name, value in network.state_dict().items():
        for ours, theirs in words.items():
            name = name.replace(ours, theirs)
        if name.endswith("bn3.weight"):
            value = torch.full_like(value, 0.2)
        state[name] = value.squeeze(2) if value.ndim == 5 else value
    path = tmp_path_factory.mktemp("weights") / "classifier.pth"
    torch.save(state, path)
    return path


NAMES = {"conv": "conv", "norm": "bn"}


def test_follow_writes_where_the_square_is(video, classifier, tmp_path, capsys):
    x, y = square(0)
    words = ["follow", str(video), "--weights", str(classifier), "--fps", "8"]
    words += ["--at", f"0,{x},{y}", "0,67.5,35.5", "--json", "--out"]
    out = [str(tmp_path / f"follow.{ending}") for ending in ("mp4", "png", "csv", "json")]
    assert main([*words, *out]) == 0
    said = capsys.readouterr()
    assert "it is an image classifier" in said.err
    told = json.loads(said.out)
    assert told == json.loads((tmp_path / "follow.json").read_text())
    assert told["layer"] == "res4.block0.non_local"
    moving, resting = (point["positions"] for point in told["points"])
    for t, (one, other) in enumerate(zip(moving, resting, strict=True)):
        assert one["seconds"] == pytest.approx(t / 8, abs=1e-3)
        assert (one["x"], one["y"]) == pytest.approx(square(t), abs=4)
        assert (other["x"], other["y"]) == pytest.approx((67.5, 35.5), abs=4)
    rows = list(csv.DictReader((tmp_path / "follow.csv").open()))
    assert [row["point"] for row in rows] == ["1"] * FRAMES + ["2"] * FRAMES
    assert [float(row["x"]) for row in rows[:FRAMES]] == [one["x"] for one in moving]
    with open_reader(tmp_path / "follow.mp4") as film:
        assert film.num_frames == FRAMES
    assert decode_all(tmp_path / "follow.mp4").float().std() > 10
    assert (tmp_path / "follow.png").stat().st_size > 10_000


def test_follow_starts_at_seconds_and_ends_after_some(video, classifier, tmp_path, capsys):
    x, y = square(2)
    words = ["follow", str(video), "--weights", str(classifier), "--at", f"0.25s,{x},{y}"]
    words += ["--seconds", "0.25", "--fps", "4", "--side", "48"]
    assert main([*words, "--out", str(tmp_path / "a.json")]) == 0
    (point,) = json.loads((tmp_path / "a.json").read_text())["points"]
    assert [row["seconds"] for row in point["positions"]] == pytest.approx([0.25, 0.5])
    assert "0.50" in capsys.readouterr().out


def test_the_radius_is_in_pixels_of_the_video_though_frames_are_scaled(video, monkeypatch):
    given = {}

    def propagate(network, frames, **options):
        given.update(options, height=frames.shape[2])
        return None

    monkeypatch.setattr(module, "SHORT_SIDE", 24)  # half of the video's
    monkeypatch.setattr(module, "propagate", propagate)
    module.follow(None, video, [(12, 20)], radius=10.0)
    assert given["height"] == 24
    assert given["radius"] == 5.0
    assert given["points"].tolist() == [[5.75, 9.75]]  # the center (12.5, 20.5), halved


def test_look_with_an_image_classifier(video, classifier, tmp_path, capsys):
    words = ["look", str(video), "--weights", str(classifier), "--at", "1,20,20", "--clip", "3x2"]
    out = tmp_path / "look.png"
    assert main([*words, "--each-frame", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "it is an image classifier" in said.err
    assert "prediction" not in said.out
    assert out.stat().st_size > 10_000


def test_a_classifier_without_the_wish_to_compare_is_refused(classifier, video, capsys):
    with pytest.raises(ValueError, match=r"image classifier; .* or pass num_classes=0"):
        nl.load(classifier)
    network = nl.load(classifier, num_classes=0)
    with pytest.raises(ValueError, match="has no classifier"):
        network.probabilities(torch.zeros(1, 3, 2, 64, 64))
    assert network(torch.zeros(1, 3, 2, 64, 64)).shape == (1, 32)
    assert main(["predict", str(video), "--weights", str(classifier)]) == 2
    assert "image classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at", "0,1"], "--at is T,X,Y"),
        (["--at", "0.5,1,2"], "--at is T,X,Y"),
        (["--at", "-1,1,2"], "--at is T,X,Y"),
        (["--at", "0,1,2", "1,1,2"], "points of one frame"),
        (["--at", "0,1,2", "--out", "a.gif"], "one of '.mp4'"),
        (["--at", "0,1,2", "--fps", "0"], "--fps must be above 0"),
        (["--at", "0,80,2"], "points must lie in the video, 80 x 48 pixels; got (80, 2)"),
        (["--at", "6,1,2"], "the frame must be from 0 to 5, the video's last; got 6"),
        (["--at", "9s,1,2"], "whose last frame is at 0.62 s; got 9"),
        (["--at", "0,1,2", "--layer", "res9"], "layer must be one of"),
    ],
)
def test_errors_of_following(video, classifier, words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["follow", str(video), "--weights", str(classifier), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
