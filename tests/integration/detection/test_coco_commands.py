"""`nonlocalnet train` and `test` with detectors: what is typed, printed and written."""

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("faster_coco_eval")
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import main
from shapes import NAMES, write_shapes

CLASSES = ["__background__", "person", "N/A", "car"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A data set, and a detector that has learnt nothing and finds much."""
    folder = write_shapes(tmp_path_factory.mktemp("coco"), 4, seed=0)
    torch.manual_seed(3)
    network = nl.create_model("mask_rcnn_tiny_fpn_nl1", num_classes=4, min_size=48, max_size=96)
    save_weights(network, folder / "m.safetensors", WeightsInfo(network.config, CLASSES))
    return folder


def words(work, *more):
    given = ["--data", work, "--weights", work / "m.safetensors", "--device", "cpu", "--workers", 0]
    return ["test", *map(str, [*given, *more])]


def test_a_folder_of_results_is_scored_alike_by_pycocotools(work, tmp_path, capsys):
    assert main(words(work, "--out", tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "AR100" in said
    assert "4 images" in said
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["bbox.json", "scores.json", "segm.json"]
    scores = json.loads((out / "scores.json").read_text())
    assert (scores["images"], scores["unreadable"], scores["side"]) == (4, 0, 48)
    truth = COCO(str(work / "annotations/instances_val2017.json"))
    for kind in ("bbox", "segm"):
        judge = COCOeval(truth, truth.loadRes(str(out / f"{kind}.json")), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        for ours, theirs in zip(scores[kind].values(), judge.stats, strict=True):
            assert (ours is None) if theirs < 0 else math.isclose(ours, 100 * theirs, abs_tol=1e-9)


def test_an_image_that_cannot_be_read_is_named(work, tmp_path, capsys):
    folder = write_shapes(tmp_path / "coco", 2, seed=0)
    (folder / "val2017/002.png").write_bytes(b"no image")
    given = words(work, "--out", tmp_path / "s.json")
    given[given.index("--data") + 1] = str(folder)
    assert main(given) == 0
    assert "counted as without detections: " in capsys.readouterr().out
    assert json.loads((tmp_path / "s.json").read_text())["unreadable"] == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--num-clips", "3"], "m.safetensors takes images: --num-clips has no use"),
        (["--out", "a.csv"], "a detector's results are JSON: got --out a.csv"),
        (["--clip", "8x8"], "has no clip"),
        (["--root", "no"], "no file or folder at no: name a folder"),
    ],
)
def test_what_does_not_fit_is_one_sentence(work, capsys, more, said):
    assert main(words(work, *more)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_other_classes_are_refused(work, tmp_path, capsys):
    folder = write_shapes(tmp_path / "coco", 1, seed=0)
    file = folder / "annotations/instances_val2017.json"
    file.write_text(file.read_text().replace(NAMES[3], "lorry"))
    given = words(work)
    given[given.index("--data") + 1] = str(folder)
    assert main(given) == 2
    assert "has 3 labels, ['person', 'N/A', 'lorry'] and so on" in capsys.readouterr().err


def test_a_detector_trains_as_its_1x_recipe_unless_told(work, capsys):
    options = ("--model", "mask_rcnn_r50_fpn_nl1", "--data", "d", "--out", "o", "--print-config")
    assert main(["train", *options, "--batch-size", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    # a quarter of the images: a quarter of the rate, four times the updates
    assert (found["lr"], found["iterations"], found["warmup"]) == (0.005, 360_000, 2000)
    assert (found["norm"], found["init"], found["test_side"]) == ("frozen", "imagenet", 800)
    # what is typed counts as it is typed, and the schedule is stretched to it
    typed = ("--batch-size", "4", "--iterations", "90", "--lr", "0.01")
    assert main(["train", *options, *typed]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["lr"], found["iterations"], found["warmup"]) == (0.01, 90, 0)
    assert found["lr_steps"] == [60, 80]
    assert main(["train", *options, "--clip", "32x2"]) == 2
    assert "mask_rcnn_r50_fpn_nl1 learns from images: --clip has no use" in capsys.readouterr().err


def test_train_test_resume_with_what_is_typed(work, tmp_path, capsys):
    out = str(tmp_path / "run")
    recipe = ["train", "mask_rcnn_r50_fpn_nl1_1x", "--data", str(work), "--out", out]
    assert main([*recipe, "--smoke-test", "--device", "cpu", "--workers", "0"]) == 0
    said = capsys.readouterr().err
    assert "4 training images, 2 classes; 4 updates of 4 images" in " ".join(said.split())
    assert "validation bbox" in said
    assert main(["train", "--resume", "--out", out, "--iterations", "5"]) == 0
    assert "resumed at iteration 4" in capsys.readouterr().err
    given = ["--data", str(work), "--weights", f"{out}/model.safetensors", "--device", "cpu"]
    assert main(["test", *given, "--workers", "1"]) == 0
    assert "segm" in capsys.readouterr().out
    assert main(["runs", out]) == 0
    assert "segm_AP" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("case", "model", "said"),
    [
        pytest.param(
            "cat0",
            "mask_rcnn_tiny_fpn",
            "4 training images, 2 classes;",
            marks=pytest.mark.slow,
        ),
        ("kp5", "keypoint_rcnn_tiny_fpn", "1 classes, 5 keypoints (none is swapped in"),
    ],
)
def test_zero_categories_and_other_keypoints_are_checked_trained_and_tested(
    shared, tmp_path, capsys, case, model, said
):
    file, images = (str(shared / "cases/07-coco" / name) for name in (f"{case}.json", "img"))
    assert main(["data", "check", file, "--images", images, "--workers", "1"]) == 0
    out = str(tmp_path / "run")
    given = ["--data", file, "--root", images, "--device", "cpu", "--workers", "0"]
    words = ["--model", model, "--val", file, "--out", out, "--init", "none", "--iterations", "1"]
    words += ["--batch-size", "1", "--short-side", "48", "64"]
    assert main(["train", *given, *words]) == 0
    assert said in " ".join(capsys.readouterr().err.split())
    results = tmp_path / "results"
    assert (
        main(["test", *given, "--weights", f"{out}/best.safetensors", "--out", str(results)]) == 0
    )
    told = " ".join(capsys.readouterr().out.split())
    assert ("similarity of keypoints with a spread of 0.067" in told) == (case == "kp5")
    found = json.loads((results / "bbox.json").read_text())
    ids = {category["id"] for category in json.loads(Path(file).read_text())["categories"]}
    assert {row["category_id"] for row in found} <= ids
