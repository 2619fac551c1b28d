"""Scores against pycocotools, COCO's own program, on real annotations with made-up detections."""

import contextlib
import io
import json
import math
import re

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

pytest.importorskip("faster_coco_eval")
COCO = pytest.importorskip("pycocotools.coco").COCO
from pycocotools.cocoeval import COCOeval  # noqa: E402

from nonlocalnet.detection.annotations import CocoError  # noqa: E402
from nonlocalnet.detection.coco_eval import KEYPOINT_NAMES, NAMES, CocoEvaluator  # noqa: E402

DETECTION, KEYPOINTS = ("bbox", "segm"), ("bbox", "segm", "keypoints")


@contextlib.contextmanager
def quiet():
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def read(file):
    with quiet():
        return COCO(str(file))


def official(file, rows, kind):
    """What pycocotools says, in percent; rows as COCO's server takes them."""
    truth = read(file)
    with quiet():
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(rows))), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: 100 * number if number > -1 else math.nan
        for name, number in zip(
            KEYPOINT_NAMES if kind == "keypoints" else NAMES, evaluation.stats, strict=True
        )
    }


def detections(objects, image, coco, scores, move=(0, 0, 0, 0), noise=0.0):
    """Objects of an image as a network's output, their boxes, masks and keypoints moved."""
    x, y, w, h = torch.tensor([a["bbox"] for a in objects]).double().view(-1, 4).unbind(1)
    masks = np.zeros((len(objects), 1, image["height"], image["width"]), bool)
    move = np.broadcast_to(move, (len(objects), 4))
    for mask, annotation, shift in zip(masks, objects, move, strict=True):
        mask[0] = np.roll(coco.annToMask(annotation), shift[:2].astype(int), (0, 1))
    points = torch.tensor([a.get("keypoints", [0] * 51) for a in objects]).double().view(-1, 17, 3)
    points[..., :2] += noise
    return {
        "boxes": torch.stack([x, y, x + w, y + h], 1) + torch.tensor(move.copy()),
        "labels": torch.tensor([a["category_id"] for a in objects], dtype=torch.int64),
        "scores": torch.as_tensor(scores, dtype=torch.float32),
        "masks": torch.where(torch.from_numpy(masks), 0.9, 0.1),
        "keypoints": points,
        "keypoints_scores": torch.zeros(len(objects), 17),
    }


def simulate(coco, seed=0):
    """Detections as a network's: jittered, missed, double, false, in crowds, with equal scores."""
    rng = np.random.default_rng(seed)
    labels = sorted(coco.cats)
    results = {}
    for number, (id, image) in enumerate(coco.imgs.items()):
        seen = [a for a in coco.imgToAnns[id] if rng.random() < 0.85]
        seen += [a for a in seen if rng.random() < 0.3]  # found twice
        seen += [a | {"category_id": rng.choice(labels)} for a in seen if rng.random() < 0.2]
        if number == 3:
            seen = (seen * 150)[:150]  # more than count
        jitter = rng.normal(scale=[0.5, 1, 3][number % 3], size=(len(seen), 4))
        noise = torch.tensor(rng.normal(scale=4, size=(len(seen), 17, 2)))
        scores = rng.integers(1, 10, len(seen)) / 10
        results[id] = detections(seen, image, coco, scores, jitter, noise)
    return results


def evaluate(file, results, kinds):
    evaluator = CocoEvaluator(file, kinds)
    for id, found in results.items():
        evaluator.add(id, found)
    return evaluator


@pytest.fixture(scope="module")
def instances(coco):
    file = coco / "instances_val.json"
    return file, simulate(read(file))


@pytest.fixture(scope="module")
def persons(coco):
    file = coco / "person_keypoints_val.json"
    return file, simulate(read(file))


def same(found, expected):
    assert {k: list(v) for k, v in found.items()} == {k: list(v) for k, v in expected.items()}
    for kind, scores in expected.items():
        assert found[kind] == pytest.approx(scores, abs=1e-9, rel=0, nan_ok=True), kind


@pytest.mark.parametrize(("what", "kinds"), [("instances", DETECTION), ("persons", KEYPOINTS)])
def test_scores_are_those_of_pycocotools(what, kinds, request):
    file, results = request.getfixturevalue(what)
    evaluator = evaluate(file, results, kinds)
    expected = {kind: official(file, evaluator.detections(kind), kind) for kind in kinds}
    found = evaluator.scores()
    same(found, expected)
    for scores in found.values():  # neither all nor nothing: the numbers can differ
        assert 5 < scores["AP"] < 95
        assert scores["AP"] != scores["AP50"] != scores["AP75"]


def test_crowds_and_ties_are_in_the_simulation(instances):
    file, results = instances
    coco = read(file)
    assert any(a["iscrowd"] for a in coco.anns.values())
    assert max(len(r["scores"]) for r in results.values()) > 100
    assert any(len(r["scores"]) > len(r["scores"].unique()) for r in results.values())


def test_order_and_repetition_of_images_change_nothing(persons):
    file, results = persons
    expected = evaluate(file, results, KEYPOINTS)
    backwards = evaluate(file, dict(reversed(results.items())), KEYPOINTS)
    assert backwards.detections() == expected.detections()
    for id, found in results.items():
        backwards.add(id, {name: field.flip(0) for name, field in found.items()})
    same(backwards.scores(), expected.scores())


def process(rank, folder, file, results):
    torch.set_num_threads(1)  # a fork has none of the parent's threads
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    ids = list(results)
    evaluator = evaluate(file, {id: results[id] for id in ids[rank::2]}, ("bbox", "keypoints"))
    # as a sampler that pads does: the first image again, not quite the same
    again = {name: field.flip(0) for name, field in results[ids[0]].items()}
    evaluator.add(ids[0], again)
    torch.save((evaluator.detections(), evaluator.scores()), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_give_the_scores_of_one(persons, tmp_path):
    file, results = persons
    results = {
        id: {name: field for name, field in found.items() if name != "masks"}
        for id, found in results.items()
    }
    evaluator = evaluate(file, results, ("bbox", "keypoints"))
    multiprocessing.start_processes(
        process, (tmp_path, file, results), nprocs=2, start_method="fork"
    )
    for rank in range(2):
        rows, scores = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert rows == evaluator.detections()
        same(scores, evaluator.scores())


def perfect(coco, kind):
    """Every object that counts, once: without a visible keypoint there is no pose to find."""
    for id, image in coco.imgs.items():
        objects = [
            a
            for a in coco.imgToAnns[id]
            if not a["iscrowd"] and (kind != "keypoints" or a["num_keypoints"])
        ]
        yield id, detections(objects, image, coco, np.ones(len(objects)))


@pytest.mark.parametrize("kind", KEYPOINTS)
def test_perfect_detections_have_ap_100(coco, kind):
    file = coco / "person_keypoints_val.json"
    scores = evaluate(file, dict(perfect(read(file), kind)), [kind]).scores()[kind]
    for name in set(scores) - {"AR1", "AR10"}:  # fewer detections than objects
        assert scores[name] == pytest.approx(100), name


def test_no_detections_have_ap_0_and_no_objects_none_at_all(coco, tmp_path):
    file = coco / "person_keypoints_val.json"
    scores = CocoEvaluator(file, KEYPOINTS).scores()
    assert {number for kind in KEYPOINTS for number in scores[kind].values()} == {0}
    content = json.loads(file.read_text())
    image = content["images"][0]
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(content | {"annotations": []}))
    evaluator = CocoEvaluator(empty, KEYPOINTS)
    assert all(math.isnan(n) for kind in evaluator.scores().values() for n in kind.values())
    nothing = {
        "boxes": (0, 4),
        "labels": (0,),
        "scores": (0,),
        "masks": (0, 1, image["height"], image["width"]),
        "keypoints": (0, 17, 3),
    }
    evaluator.add(image["id"], {name: torch.zeros(shape) for name, shape in nothing.items()})
    assert evaluator.detections() == []


@pytest.fixture
def little(tmp_path):
    """One image of 40x30 with a box of 10x10 at 4, 5 whose mask is the box."""
    box = {"bbox": [4, 5, 10, 10], "area": 100, "segmentation": [[4, 5, 14, 5, 14, 15, 4, 15]]}
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 30, "width": 40}],
        "categories": [{"id": 3, "name": "car"}],
        "annotations": [box | {"id": 0, "image_id": 7, "category_id": 3, "iscrowd": 0}],
    }
    file = tmp_path / "little.json"
    file.write_text(json.dumps(content))
    return file


def one(scale=1.0):
    size = int(30 * scale), int(40 * scale)
    box = torch.tensor([[4, 5, 14, 15]]) * scale
    x0, y0, x1, y1 = (int(v) for v in box[0])
    masks = torch.zeros(1, 1, *size)
    masks[..., y0:y1, x0:x1] = 1
    label, score = torch.tensor([3]), torch.tensor([0.5])
    return {"boxes": box, "labels": label, "scores": score, "masks": masks}


def test_results_are_in_cocos_format(little):
    evaluator = CocoEvaluator(little)
    evaluator.add(torch.tensor(7), one())
    (row,) = evaluator.detections()
    assert row["image_id"] == 7
    assert row["category_id"] == 3
    assert row["score"] == 0.5
    assert row["bbox"] == [4, 5, 10, 10]
    assert row["segmentation"]["size"] == [30, 40]
    json.dumps(row)
    (segm,) = evaluator.detections("segm")
    assert set(segm) == {"image_id", "category_id", "segmentation", "score"}


def test_an_annotation_with_the_id_0_counts(little):
    evaluator = CocoEvaluator(little)  # pycocotools gives 0 here: 0 is "not found" to it
    evaluator.add(7, one())
    assert evaluator.scores()["bbox"]["AP"] == pytest.approx(100)


def test_a_category_with_the_id_0_is_label_1_and_0_again_in_the_results(little):
    little.write_text(little.read_text().replace('"category_id": 3', '"category_id": 0'))
    little.write_text(little.read_text().replace('"id": 3, "name"', '"id": 0, "name"'))
    evaluator = CocoEvaluator(little)
    evaluator.add(7, one() | {"labels": torch.tensor([1])})
    assert [row["category_id"] for row in evaluator.detections()] == [0]
    assert evaluator.scores()["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("names", "sigma"),
    [(["a", "b"], 0.067), (["nose", "tail"], 0.067), (["left_hip", "right_hip"], 0.107)],
)
def test_keypoints_of_any_names_and_number_are_scored(little, names, sigma):
    content = json.loads(little.read_text())
    content["categories"][0]["keypoints"] = names
    content["annotations"][0] |= {"keypoints": [6, 6, 2, 12, 12, 2]}
    little.write_text(json.dumps(content))
    evaluator = CocoEvaluator(little, ["keypoints"])
    off = 1.0  # pixels, of both: similarity exp(-d² / (2 area (2σ)²))
    similarity = math.exp(-(off**2) / (2 * 100 * (2 * sigma) ** 2))
    points = torch.tensor([[[6 + off, 6, 1], [12, 12 - off, 1]]])
    evaluator.add(7, one() | {"keypoints": points})
    reached = sum(similarity >= 0.5 + 0.05 * i for i in range(10))
    assert evaluator.scores()["keypoints"]["AP"] == pytest.approx(10 * reached)
    assert 0 < reached < 10
    assert evaluator.sigmas == pytest.approx((sigma, sigma))
    with pytest.raises(ValueError, match=r"keypoints must be \(1, 2, 3\)"):
        CocoEvaluator(little, ["keypoints"]).add(7, one() | {"keypoints": torch.zeros(1, 17, 3)})


def test_what_was_found_on_a_resized_image_is_scaled_to_the_original(little):
    evaluator = CocoEvaluator(little)
    evaluator.add(7, one(2.0), size=(60, 80))
    assert evaluator.scores()["bbox"]["AP"] == pytest.approx(100)
    assert evaluator.scores()["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("image", "change", "message"),
    [
        (8, {}, "no image with the id 8"),
        (7, {"masks": torch.zeros(1, 1, 60, 80)}, r"masks must be \(1, 1, 30, 40\)"),
        (7, {"scores": torch.zeros(2)}, r"scores must be \(1,\), got \(2,\)"),
        (7, {"boxes": torch.full((1, 4), math.nan)}, "boxes are not all finite"),
        (7, {"boxes": None}, "the detections have no boxes"),
    ],
)
def test_wrong_detections_are_refused(little, image, change, message):
    found = {k: v for k, v in (one() | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        CocoEvaluator(little).add(image, found)


def test_annotations_that_cannot_be_scored_are_refused(little, tmp_path):
    with pytest.raises(ValueError, match="kinds must be one of 'bbox', 'segm', 'keypoints'"):
        CocoEvaluator(little, ["box"])
    with pytest.raises(CocoError, match="annotation 0 cannot be scored: its keypoints must be 17"):
        CocoEvaluator(little, ["keypoints"])
    with pytest.raises(CocoError, match=re.escape(str(tmp_path / "no.json"))):
        CocoEvaluator(tmp_path / "no.json")
