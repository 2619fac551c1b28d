import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("faster_coco_eval")
import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import detect as module
from nonlocalnet.cli import main
from nonlocalnet.detection import detect as detection
from nonlocalnet.networks import create_model

CLASSES = ["__background__", "person"]


@pytest.fixture(scope="module")
def networks():
    """Of both kinds; each object of theirs is a person of the score 0.5 ± a little."""
    found = {}
    for name in ("mask_rcnn_r50_fpn_nl1", "keypoint_rcnn_r50_fpn"):
        torch.manual_seed(0)
        network = create_model(name, num_classes=2, min_size=48, max_size=64)
        network.info = WeightsInfo(network.config, CLASSES)
        found[name.partition("_")[0]] = network
    return found


@pytest.fixture
def detect(networks, monkeypatch, tmp_path):
    """detect(words, ...): run the command in a folder of its own, -> its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*words, kind="mask", score="0.2"):
        monkeypatch.setattr(module, "check_weights", lambda _: None)
        monkeypatch.setattr(module, "load_network", lambda *told, **takes: networks[kind])
        words = [*map(str, words), "--weights", "w", "--device", "cpu", "--score", score]
        return main(["detect", *words, "--top", "3"])

    return run


def draw(path, width=60, height=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize(("kind", "field"), [("mask", "mask"), ("keypoint", "keypoints")])
def test_it_draws_and_writes(detect, tmp_path, capsys, kind, field):
    file = draw(tmp_path / "a.png", 640, 480)
    assert detect("a.png", "--json", kind=kind) == 0
    (row,) = json.loads((tmp_path / "detections/detections.json").read_text())
    streams = capsys.readouterr()
    assert [json.loads(line) for line in streams.out.splitlines()] == [row]
    assert "wrote detections/detections.json" in streams.err
    assert (row["file"], row["picture"]) == ("a.png", "detections/a.png")
    assert (row["width"], row["height"]) == (640, 480)
    assert len(row["objects"]) == 3
    for thing in row["objects"]:
        assert list(thing) == ["class", "label", "score", "box", field]
        assert (thing["class"], thing["label"]) == ("person", 1)
        x1, y1, x2, y2 = thing["box"]
        assert 0 <= x1 < x2 <= 640
        assert 0 <= y1 < y2 <= 480
    drawn = np.asarray(Image.open(tmp_path / row["picture"]))
    assert drawn.shape == (480, 640, 3)
    assert (drawn != np.asarray(Image.open(file))).any()


def test_a_table_names_objects(detect, tmp_path, capsys):
    draw(tmp_path / "a.png")
    assert detect("a.png") == 0
    said = capsys.readouterr().out
    assert said.count("person") == 3
    assert "detections/a.png" in said
    assert detect("a.png", score="0.99") == 0
    assert capsys.readouterr().out == "a.png: nothing above 0.99\n"
    assert json.loads((tmp_path / "detections/detections.json").read_text())[0]["objects"] == []


def test_one_table_of_many_images(detect, tmp_path, capsys):
    for name in ("a.png", "b.gif", "c.png"):
        draw(tmp_path / "in" / name)
    (tmp_path / "in/notes.txt").write_text("x")
    (tmp_path / "in/broken.png").write_bytes(b"x")
    assert detect("in") == 2
    streams = capsys.readouterr()
    assert streams.out.count("┏") == 1
    assert streams.out.count("3 person") == 3
    for name in ("a.png", "b.gif.png", "c.png"):
        assert name in streams.out
    assert "1 files without the suffix of an image are left out, notes.txt for one" in streams.err
    assert "1 of 4 images could not be read" in streams.err


def test_folders_and_names_that_occur_twice(detect, tmp_path, capsys):
    for name in ("one/a.jpg", "two/a.jpg", "two/A.JPG", "two/b.tif", "two/b.png"):
        draw(tmp_path / name)
    (tmp_path / "two/notes.txt").write_text("x")
    assert detect("one", "two", "one/a.jpg", "--out", "o", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["file"]: row["picture"] for row in rows} == {
        "one/a.jpg": "o/a.jpg",
        "two/A.JPG": "o/A-2.JPG",
        "two/a.jpg": "o/a-3.jpg",
        "two/b.png": "o/b.png",
        "two/b.tif": "o/b.tif.png",
    }
    assert {f"o/{path.name}" for path in (tmp_path / "o").iterdir()} == {
        "o/detections.json",
        *(row["picture"] for row in rows),
    }
    for row in rows:
        picture = Image.open(tmp_path / row["picture"])
        assert picture.format == ("PNG" if row["picture"].endswith("png") else "JPEG")


def test_what_cannot_be_read_is_named_and_the_others_go_on(detect, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 40)
    draw(tmp_path / "huge.png", 100, 40)
    draw(tmp_path / "narrow.png", 100, 1)
    draw(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:500])
    (tmp_path / "text.png").write_text("hello")
    names = ["missing.png", "huge.png", "narrow.png", "broken.png", "text.png", "good.png"]
    assert detect(*names, "--json") == 2
    streams = capsys.readouterr()
    assert json.loads(streams.out)["file"] == "good.png"
    *errors, wrote, count = streams.err.splitlines()
    assert count == "5 of 6 images could not be read"
    assert [error.split()[1].rstrip(":") for error in errors] == names[:-1]
    for error, said in zip(
        errors,
        ("no such image", "2,400 pixels allowed", "too narrow", "not a readable", "not a readable"),
        strict=True,
    ):
        assert said in error
    assert wrote.startswith("wrote ")


def test_an_image_is_never_overwritten(detect, tmp_path, capsys):
    file = draw(tmp_path / "photos/a.png")
    before = file.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for out in ("photos", "link"):
        assert detect("photos/a.png", "--out", out) == 2
        assert "choose another folder as --out" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.png"]


def test_what_is_done_is_kept_when_it_is_interrupted(detect, tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
    original = detection.detect

    def stop_at_b(model, file, **options):
        if file.name == "b.png":
            raise KeyboardInterrupt
        return original(model, file, **options)

    monkeypatch.setattr(detection, "detect", stop_at_b)
    assert detect("a.png", "b.png") == 130
    (row,) = json.loads((tmp_path / "detections/detections.json").read_text())
    assert row["file"] == "a.png"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name at least one image"),
        (["a.png", "--score", "1"], "--score must be at least 0 and below 1; got 1"),
        (["a.png", "--top", "0"], "--top must be at least 1"),
        (["a.png", "--out", "a.png"], "--out is a folder; a.png is a file"),
        (["empty"], "empty contains no image (.jpg, "),
        (["a.png"], "video.safetensors is a network for videos: use nonlocalnet predict"),
    ],
)
def test_errors_of_use_are_one_sentence(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    video = nl.create_model("c2d_tiny", num_classes=2, clip="4x2", crop=32)
    save_weights(video, tmp_path / "video.safetensors", WeightsInfo(video.config))
    draw(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    assert main(["detect", *words, "--weights", "video.safetensors"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nonlocalnet: ")
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "detections").exists()


def test_weights_of_ours_are_read(networks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = nl.create_model("keypoint_rcnn_tiny_fpn_nl5", min_size=48, max_size=64)
    save_weights(network, tmp_path / "m.safetensors", WeightsInfo(network.config, CLASSES))
    draw(tmp_path / "a.png")
    words = ["a.png", "--weights", "m.safetensors", "--device", "cpu"]
    assert main(["detect", *words, "--score", "0.1", "--top", "1", "--json"]) == 0
    (thing,) = json.loads(capsys.readouterr().out)["objects"]
    assert (thing["class"], len(thing["keypoints"])) == ("person", 17)
    for command in ("predict", "explore"):
        assert main([command, *words]) == 2
        said = capsys.readouterr().err
        assert "m.safetensors is a network for images: use nonlocalnet detect" in said
