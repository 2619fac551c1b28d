"""COCO's numbers against pycocotools, on real annotations and simulated detections."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from nonlocalnet.evaluation import coco as module
from nonlocalnet.evaluation.coco import BOX_NAMES, KEYPOINT_NAMES, CocoEvaluator

FILES = {"bbox": "instances", "segm": "instances", "keypoints": "person_keypoints"}


def truth_of(shared, kind):
    return shared / "data" / "coco" / f"{FILES[kind]}_val.json"


def simulate(truth, seed, *, keypoints=False):
    """Detections as a middling detector has them: jittered, missed, doubled, invented, tied."""
    rng = np.random.default_rng(seed)
    found = {}
    for image in truth.loadImgs(truth.getImgIds()):
        rows = {"boxes": [], "labels": [], "scores": [], "masks": [], "keypoints": []}
        objects = truth.loadAnns(truth.getAnnIds(image["id"]))
        for one in objects:
            for _ in range(rng.choice([0, 1, 1, 2])):
                x, y, w, h = np.array(one["bbox"]) * (1 + rng.normal(0, 0.06, 4))
                label = one["category_id"] if rng.random() < 0.9 else int(rng.choice([1, 3, 44]))
                mask = truth.annToMask(one) if not keypoints else np.zeros((2, 2), np.uint8)
                mask = np.roll(mask, rng.integers(-4, 5, 2), (0, 1))
                rows["boxes"].append([x, y, x + max(w, 1), y + max(h, 1)])
                rows["labels"].append(1 if keypoints else label)
                rows["scores"].append(round(float(rng.random()), 1))  # with ties
                rows["masks"].append(mask[None])
                if keypoints:
                    points = np.array(one["keypoints"], float).reshape(-1, 3)
                    points[:, :2] += rng.normal(0, 5, points[:, :2].shape)
                    rows["keypoints"].append(points)
        found[image["id"]] = {
            "boxes": torch.tensor(np.array(rows["boxes"]).reshape(-1, 4)),
            "labels": torch.tensor(rows["labels"], dtype=torch.long),
            "scores": torch.tensor(rows["scores"], dtype=torch.float64),
        }
        if keypoints:
            points = np.array(rows["keypoints"]).reshape(-1, 17, 3)
            found[image["id"]]["keypoints"] = torch.tensor(points)
        elif rows["masks"]:
            found[image["id"]]["masks"] = torch.tensor(np.array(rows["masks"])).float()
        else:
            size = image["height"], image["width"]
            found[image["id"]]["masks"] = torch.zeros(0, 1, *size)
    return found


def by_pycocotools(truth, found, kind):
    rows = []
    for image_id, one in found.items():
        for i in range(len(one["boxes"])):
            left, top, right, bottom = one["boxes"][i].tolist()
            row = {"image_id": image_id, "category_id": int(one["labels"][i])}
            row["score"] = float(one["scores"][i])
            if kind == "bbox":
                row["bbox"] = [left, top, right - left, bottom - top]
            elif kind == "segm":
                inside = (one["masks"][i, 0] > 0.5).numpy().astype(np.uint8)
                row["segmentation"] = coco_mask.encode(np.asfortranarray(inside))
            else:
                points = one["keypoints"][i].clone()
                points[:, 2] = 1
                row["keypoints"] = points.flatten().tolist()
            rows.append(row)
    evaluation = COCOeval(truth, truth.loadRes(rows), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = KEYPOINT_NAMES if kind == "keypoints" else BOX_NAMES
    return dict(zip(names, evaluation.stats.tolist(), strict=True))


@pytest.fixture(params=["bbox", "segm", "keypoints"])
def case(request, shared):
    kind = request.param
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(truth_of(shared, kind))
    return kind, truth, simulate(truth, 0, keypoints=kind == "keypoints")


def evaluated(shared, kind, found):
    evaluator = CocoEvaluator(truth_of(shared, kind), [kind])
    for image_id, one in found.items():
        evaluator.add(image_id, one)
    return evaluator


def assert_same(scores, expected):
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        if value < 0:
            assert math.isnan(scores[name]), name
        else:
            assert scores[name] == pytest.approx(100 * value, abs=1e-9), name


def test_the_numbers_are_those_of_pycocotools(shared, case):
    kind, truth, found = case
    with contextlib.redirect_stdout(io.StringIO()):
        expected = by_pycocotools(truth, found, kind)
    scores = evaluated(shared, kind, found).scores()[kind]
    assert_same(scores, expected)
    assert 5 < scores["AP"] < 95  # neither nothing nor all is found


def test_processes_in_any_order_give_the_same(shared, case, monkeypatch):
    kind, _, found = case
    whole = evaluated(shared, kind, found).scores()
    names = list(found)
    # two processes, one of which saw an image that the other saw too
    shares = [names[1::2][::-1], [*names[::2], names[1]]]
    found_by = [evaluated(shared, kind, {n: found[n] for n in share})._found for share in shares]
    monkeypatch.setattr(module, "gather", lambda own: found_by)
    together = CocoEvaluator(truth_of(shared, kind), [kind]).scores()
    for name, value in whole[kind].items():
        assert together[kind][name] == pytest.approx(value, abs=1e-12, nan_ok=True)


def test_all_found_is_a_hundred_and_nothing_is_none(shared):
    path = truth_of(shared, "bbox")
    data = json.loads(path.read_text())
    evaluator = CocoEvaluator(path, ["bbox"])
    assert evaluator.scores()["bbox"]["AP"] == 0
    for image in data["images"]:
        own = [a for a in data["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        boxes = torch.tensor([a["bbox"] for a in own], dtype=torch.float64).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([a["category_id"] for a in own], dtype=torch.long)
        evaluator.add(
            image["id"], {"boxes": boxes, "labels": labels, "scores": torch.ones(len(own))}
        )
    scores = evaluator.scores()["bbox"]
    assert scores["AP"] == pytest.approx(100)
    assert scores["AR100"] == pytest.approx(100)
    assert len(evaluator.detections()) == sum(not a["iscrowd"] for a in data["annotations"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "is no JSON"),
        ("[1, 2]", "COCO's annotations have lists of images, annotations, categories"),
        ('{"images": []}', "COCO's annotations have lists of"),
    ],
)
def test_files_that_are_no_annotations(tmp_path, text, said):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        CocoEvaluator(path)
    with pytest.raises(FileNotFoundError, match="no annotations at"):
        CocoEvaluator(tmp_path / "gone.json")


def test_what_does_not_fit_is_said(shared):
    path = truth_of(shared, "bbox")
    with pytest.raises(ValueError, match="kind must be one of"):
        CocoEvaluator(path, ["boxes"])
    evaluator = CocoEvaluator(path, ["segm"])
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0)}
    with pytest.raises(ValueError, match="image -1 is not in the annotations"):
        evaluator.add(-1, nothing)
    image_id = json.loads(path.read_text())["images"][0]["id"]
    box = {"boxes": torch.rand(1, 4), "labels": torch.ones(1), "scores": torch.ones(1)}
    evaluator.add(image_id, box)
    with pytest.raises(ValueError, match="the detections have no segmentation"):
        evaluator.scores()
