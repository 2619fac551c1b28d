"""Detectors are trained by the loop of videos: nothing is lost, scores are exact, starts fit."""

import dataclasses
import json
import math
import shutil

import pytest
import torch

from launching import start_training

pytest.importorskip("faster_coco_eval")
from torchvision.models.detection import maskrcnn_resnet50_fpn

import nonlocalnet as nl
from nonlocalnet.checkpoints.load import read_pretrained
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.detection.coco_eval import CocoEvaluator
from nonlocalnet.detection.dataset import CocoDataset
from nonlocalnet.detection.evaluation import evaluate_detector
from nonlocalnet.runtime.log import read_metrics
from nonlocalnet.training.checkpoints import Checkpoints
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.trainer import train
from shapes import write_shapes

FEW = ("box_batch_size_per_image=16", "rpn_post_nms_top_n_train=40", "rpn_post_nms_top_n_test=20")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, 6, seed=0)
    return write_shapes(folder, 6, seed=0, kind="person_keypoints")


@pytest.fixture
def coco_sample(coco, tmp_path):
    """Two of COCO's real images, with all categories."""
    content = json.loads((coco / "instances_train.json").read_text())
    content["images"] = content["images"][:2]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    folder = tmp_path / "coco"
    folder.mkdir()
    (folder / "instances_train.json").write_text(json.dumps(content))
    (folder / "images").symlink_to(coco / "images")
    return folder


def make_config(shapes, out):
    return TrainConfig(
        data=shapes,
        out=out,
        model="mask_rcnn_tiny_fpn_nl1",
        norm="frozen",
        short_side=(48, 80),
        iterations=4,
        batch_size=2,
        lr=0.002,
        set=FEW,
        workers=0,
        log_every=1,
        eval_every=2,
        device="cpu",
    )


@pytest.fixture
def config(shapes, tmp_path):
    return make_config(shapes, tmp_path / "run")


@pytest.fixture(scope="module")
def plain(shapes, tmp_path_factory):
    """The options and the result of a complete run."""
    config = make_config(shapes, tmp_path_factory.mktemp("plain") / "run")
    return config, train(config)


def state_of(config):
    return Checkpoints(config.out / "checkpoints", 3).load()


def lines(config, kind):
    found = read_metrics(config.out / "metrics.jsonl", kind)
    timing = {"seconds", "images_per_second", "data_share"}
    return [{key: line[key] for key in line.keys() - timing} for line in found]


@pytest.mark.parametrize(
    "options",
    [
        {"model": "keypoint_rcnn_tiny_fpn_nl5", "workers": 1, "jitter": 0.3, "accumulate": 2},
        pytest.param({"ema": 0.9}, marks=pytest.mark.slow),
    ],
)
def test_a_run_in_parts_equals_an_unbroken_one_bit_for_bit(config, tmp_path, options):
    whole = dataclasses.replace(config, iterations=5, checkpoint_every=1, **options)
    train(whole)
    parts = dataclasses.replace(whole, out=tmp_path / "parts")
    shutil.copytree(whole.out, parts.out)
    for file in Checkpoints(parts.out / "checkpoints", 3).files()[:2]:
        file.unlink()  # as if killed after 3
    train(dataclasses.replace(parts, resume=True))
    for kind in ("train", "val"):
        assert lines(whole, kind) == lines(parts, kind)
    one, other = state_of(whole), state_of(parts)
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    assert not torch.equal(one["model"]["backbone.body.conv1.weight"], torch.zeros(()))


def test_numbers_that_are_written(plain):
    config, _ = plain
    for line in lines(config, "train"):
        parts = [value for name, value in line.items() if name.startswith("loss_")]
        assert len(parts) == 5
        assert line["loss"] == pytest.approx(sum(parts), rel=1e-5)
    (first, last) = lines(config, "val")
    assert {name.split("_")[0] for name in last} == {
        "kind",
        "iteration",
        "unreadable",
        "bbox",
        "segm",
    }
    assert len([name for name in last if name.startswith(("bbox_", "segm_"))]) == 24
    assert (first["iteration"], last["iteration"]) == (2, 4)


def test_weights_say_all(plain, shapes):
    _, result = plain
    network = nl.load(result.weights)
    assert network.info.classes == ["__background__", "person", "N/A", "car"]
    assert (network.info.short_side, network.transform.min_size) == (80, (80,))
    # nothing to start from: all of the backbone learns
    assert network.config["trainable_stages"] == 5
    data = CocoDataset(
        shapes / "val2017",
        shapes / "annotations/instances_val2017.json",
        masks=False,
        training=False,
    )
    evaluator = CocoEvaluator(data.annotations, ["bbox", "segm"])
    assert evaluate_detector(network, data, evaluator) == []
    for kind, of in evaluator.scores().items():
        for name, value in of.items():
            said = result.scores[f"{kind}_{name}"]
            assert value == said or (math.isnan(value) and math.isnan(said))


@pytest.mark.slow  # half a minute; tests/integration/training has the mechanism
def test_two_processes_share_an_update_and_agree_on_scores(config, tmp_path):
    two = dataclasses.replace(config, out=tmp_path / "two")
    words = {
        "data": two.data,
        "norm": "frozen",
        "short-side": "48 80",
        "eval-every": 4,
        "reference-batch": 2,
        "workers": 0,
        "set": " ".join(FEW),
    }
    process = start_training(two, processes=2, crop=224, clip="8x8", **words)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.count("weights:") == 1
    found = lines(two, "val")
    assert [line["iteration"] for line in found] == [4]
    line = found[0]
    network = nl.load(two.out / "model.safetensors")
    data = CocoDataset(
        two.data / "val2017",
        two.data / "annotations/instances_val2017.json",
        masks=False,
        training=False,
    )
    evaluator = CocoEvaluator(data.annotations, ["bbox", "segm"])
    evaluate_detector(network, data, evaluator)
    for kind, of in evaluator.scores().items():
        for name, value in of.items():
            assert line[f"{kind}_{name}"] == (None if math.isnan(value) else value)


@pytest.mark.parametrize(
    "options", [{"recompute": True}, pytest.param({"accumulate": 2}, marks=pytest.mark.slow)]
)
def test_ways_to_save_memory_change_little(config, plain, options):
    # each part of an update draws its own proposals, so that accumulation is no equality
    train(dataclasses.replace(config, **options))
    expected, found = ([line["loss"] for line in lines(c, "train")] for c in (plain[0], config))
    tolerance = 1e-5 if "recompute" in options else 0.5
    assert found == pytest.approx(expected, rel=tolerance)


def test_precise_norms(config):
    result = train(dataclasses.replace(config, norm="batch", precise_norm=2))
    network = nl.load(result.weights)
    mean = network.backbone.body.bn1.running_mean
    assert mean.isfinite().all()
    assert mean.abs().max() > 0


def test_images_that_cannot_be_read_are_replaced_and_named(config, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(config.data, data)
    (data / "train2017/003.png").write_bytes(b"no image")
    broken = dataclasses.replace(config, data=data, max_bad=0.5)
    train(dataclasses.replace(broken, iterations=6))
    assert (broken.out / "unreadable.txt").read_text() == f"{data}/train2017/003.png\n"
    strict = dataclasses.replace(broken, max_bad=0.0, out=tmp_path / "strict", iterations=6)
    with pytest.raises(RuntimeError, match="1 of 6 images cannot be read, more than max_bad = 0"):
        train(strict)
    for file in (data / "val2017").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="the first 5 validation images cannot be read"):
        train(dataclasses.replace(broken, out=tmp_path / "blind"))


def test_another_annotation_file_is_another_run(config, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(config.data, data)
    config = dataclasses.replace(config, data=data)
    train(config)
    file = data / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"the training images or their labels in .* are not"):
        train(dataclasses.replace(config, resume=True, iterations=6))


def test_a_detector_starts_from_one_without_blocks_and_of_other_classes(config, tmp_path, capsys):
    torch.manual_seed(1)
    start = nl.create_model("mask_rcnn_tiny_fpn", num_classes=9, image_mean=[0.1, 0.2, 0.3])
    info = WeightsInfo(start.config, mean=(0.1, 0.2, 0.3), std=(0.2, 0.2, 0.2))
    save_weights(start, tmp_path / "start.safetensors", info)
    begun = dataclasses.replace(config, init=str(tmp_path / "start.safetensors"), lr=1e-9)
    network = nl.load(train(begun).weights)
    said = " ".join(capsys.readouterr().err.split())
    assert "(nonlocalnet): " in said
    assert network.config["trainable_stages"] == 3
    assert tuple(network.transform.image_mean) == network.info.mean == (0.1, 0.2, 0.3)
    for name in ("backbone.body.conv1.weight", "rpn.head.conv.0.0.weight"):
        torch.testing.assert_close(network.state_dict()[name], start.state_dict()[name])


RELEASED = "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"


def test_torchvisions_coco_weights_are_for_cocos_classes(coco_sample, tmp_path):
    body = nl.create_model("mask_rcnn_tiny_fpn")
    torch.save(body.state_dict(), tmp_path / RELEASED)  # of the same layout
    classes = CocoDataset(coco_sample / "images", coco_sample / "instances_train.json").classes
    assert read_pretrained(tmp_path / RELEASED).classes == classes
    (tmp_path / RELEASED).rename(tmp_path / "renamed.pth")  # then nobody says what they are
    assert read_pretrained(tmp_path / "renamed.pth").classes == []


@pytest.mark.slow
def test_torchvisions_coco_weights_keep_their_classes(coco_sample, config, tmp_path):
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(theirs.state_dict(), tmp_path / RELEASED)
    begun = dataclasses.replace(
        config,
        data=coco_sample,
        model="mask_rcnn_r50_fpn_nl1",
        init=str(tmp_path / RELEASED),
        iterations=1,
        lr=1e-12,
        set=(*FEW, "image_std=[0.3, 0.3, 0.3]"),
    )
    with pytest.warns(UserWarning, match=r"norm_eps=1e-05 here, 0\.0 as torchvision's COCO_V1"):
        network = nl.load(train(begun).weights)
    predictor = "roi_heads.box_predictor.cls_score.weight"
    torch.testing.assert_close(network.state_dict()[predictor], theirs.state_dict()[predictor])
    assert network.info.std == tuple(network.transform.image_std) == (0.3, 0.3, 0.3)
    assert network.info.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clip": "32x2"}, "learns from images: clip has no use"),
        ({"mixup": 0.2}, "learns from images: mixup has no use"),
        ({"look": "x.mp4"}, "learns from images: look has no use"),
        ({"model": "c2d_tiny", "jitter": 0.2}, "learns from videos: jitter has no use"),
        ({"norm": "group"}, "norm must be one of"),
        ({"set": ("min_sise=3",)}, "did you mean 'min_size'"),
    ],
)
def test_options_of_the_other_kind_are_refused(config, options, said):
    with pytest.raises(ValueError, match=said):
        train(dataclasses.replace(config, **options))


def test_data_of_another_kind_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"no instances_train\*\.json there or in annotations/"):
        train(dataclasses.replace(config, data=tmp_path))
    (tmp_path / "images").mkdir()
    captions = tmp_path / "captions.json"
    captions.write_text('{"images": [], "annotations": [{"id": 1}], "categories": []}')
    with pytest.raises(ValueError, match="has no image_id of type int"):
        train(dataclasses.replace(config, data=captions))
