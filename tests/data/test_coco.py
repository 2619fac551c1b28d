"""COCO's images and objects, on its real samples and on made-up ones."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

from nonlocalnet.data import coco as module
from nonlocalnet.data.coco import (
    MIRRORED,
    CocoDataset,
    ImageError,
    TestTransform,
    TrainTransform,
    read_image,
)


@pytest.fixture(scope="module")
def samples(shared):
    return shared / "data" / "coco"


def real(samples, kind="instances", **options):
    return CocoDataset(samples / "images", samples / f"{kind}_val.json", **options)


@pytest.fixture
def made(tmp_path):
    """One image of 40 x 60 with a rectangle, a person, and a second image without anything."""
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[10:20, 5:25] = 255
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(tmp_path / name)
    points = np.zeros((17, 3))
    points[5], points[6] = (6, 11, 2), (20, 12, 1)  # the left and the right shoulder
    box = {"bbox": [5, 10, 20, 10], "area": 200, "iscrowd": 0, "image_id": 1, "category_id": 1}
    polygon = [[5, 10, 25, 10, 25, 20, 5, 20]]
    return tmp_path, {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 2, "file_name": "b.png", "height": 40, "width": 60},
        ],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            box | {"id": 1, "segmentation": polygon, "keypoints": points.flatten().tolist()}
        ],
    }


def test_real_objects_are_those_of_the_file(samples):
    data = json.loads((samples / "instances_val.json").read_text())
    dataset = real(samples)
    assert len(dataset) == len(data["images"])
    for i in range(0, len(dataset), 7):
        image, target = dataset[i]
        own = [one for one in data["annotations"] if one["image_id"] == target["image_id"]]
        record = next(one for one in data["images"] if one["id"] == target["image_id"])
        assert image.shape == (3, record["height"], record["width"])
        assert target["labels"].tolist() == [one["category_id"] for one in own]
        sizes = target["boxes"][:, 2:] - target["boxes"][:, :2]
        expected = torch.tensor([one["bbox"] for one in own])
        torch.testing.assert_close(torch.as_tensor(target["boxes"][:, :2]), expected[:, :2])
        torch.testing.assert_close(torch.as_tensor(sizes), expected[:, 2:])
        # COCO's area is that of the mask, of polygons before they became pixels
        for mask, one in zip(target["masks"], own, strict=True):
            assert int(mask.sum()) == pytest.approx(one["area"], rel=0.1, abs=30)


def test_training_leaves_out_crowds_and_images_without_objects(samples, made):
    data = json.loads((samples / "instances_val.json").read_text())
    crowds = sum(one["iscrowd"] for one in data["annotations"])
    whole, training = real(samples), real(samples, train=True)
    count = {name: sum(len(o) for _, o in d.records) for name, d in (("a", whole), ("b", training))}
    assert crowds > 0
    assert count["a"] - count["b"] >= crowds
    assert all(objects for _, objects in training.records)
    folder, annotations = made
    assert len(CocoDataset(folder, annotations)) == 2
    assert len(CocoDataset(folder, annotations, train=True)) == 1
    people = copy.deepcopy(annotations)
    people["annotations"][0]["keypoints"][2::3] = [0] * 17
    with pytest.raises(ValueError, match="no image has an object"):
        CocoDataset(folder, people, train=True, keypoints=True)


@pytest.mark.parametrize("side", [20, 40, 75])
def test_boxes_and_masks_move_with_the_picture(made, side):
    folder, annotations = made
    dataset = CocoDataset(folder, annotations, TrainTransform((side,), 1000, flip=1.0))
    image, target = dataset[0]
    scale = side / 40
    assert image.shape == (3, side, round(60 * scale))
    # the rectangle from 5 to 25 of 60, mirrored: 35 to 55
    expected = torch.tensor([[35.0, 10, 55, 20]]) * scale
    torch.testing.assert_close(torch.as_tensor(target["boxes"]), expected, atol=0.5, rtol=0.01)
    bright = (image[0] > 127).float()
    assert (bright - target["masks"][0]).abs().mean() < 0.03
    assert target["area"].item() == pytest.approx(200 * scale**2, rel=0.02)


def test_left_and_right_change_places_in_the_mirror(made):
    folder, annotations = made
    options = {"keypoints": True}
    _, plain = CocoDataset(folder, annotations, TestTransform(40, 1000), **options)[0]
    turn = TrainTransform((40,), 1000, flip=1.0)
    _, turned = CocoDataset(folder, annotations, turn, **options)[0]
    before, after = plain["keypoints"][0], turned["keypoints"][0]
    # pixel x goes to 59 - x; what was the left shoulder is the right one, with its visibility
    assert after[6].tolist() == [59 - 6, 11, 2]
    assert after[5].tolist() == [59 - 20, 12, 1]
    assert before[5].tolist() == [6, 11, 2]
    others = [k for k in range(17) if k not in (5, 6)]
    assert not after[others].any()  # what is not there does not move
    names = json.loads(NAMES)
    for k, name in enumerate(names):
        swapped = name.replace("left", "X").replace("right", "left").replace("X", "right")
        assert names[MIRRORED[k]] == swapped


NAMES = (
    '["nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",'
    '"left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",'
    '"left_knee", "right_knee", "left_ankle", "right_ankle"]'
)


def test_the_names_are_those_of_the_real_file(samples):
    data = json.loads((samples / "person_keypoints_val.json").read_text())
    assert data["categories"][0]["keypoints"] == json.loads(NAMES)


def test_real_boxes_and_keypoints_move_together(samples):
    options = {"train": True, "keypoints": True}
    plain = real(samples, "person_keypoints", **options)
    turned = real(samples, "person_keypoints", **options)
    turned.transform = TrainTransform((300,), 500, flip=1.0)
    for i in range(len(plain)):
        (image, before), (moved, after) = plain[i], turned[i]
        high, wide = (b / a for a, b in zip(image.shape[1:], moved.shape[1:], strict=True))
        left, top, right, bottom = torch.as_tensor(before["boxes"]).T
        width = moved.shape[2]
        expected = torch.stack(
            [width - right * wide, top * high, width - left * wide, bottom * high], dim=1
        )
        torch.testing.assert_close(torch.as_tensor(after["boxes"]), expected, atol=0.01, rtol=1e-4)
        x, y, seen = before["keypoints"][:, list(MIRRORED)].unbind(-1)
        # a keypoint is a pixel: the last one becomes the first
        there = torch.stack([width - 1 - x * wide, y * high], dim=-1) * (seen > 0).unsqueeze(-1)
        torch.testing.assert_close(after["keypoints"][..., :2], there, atol=0.01, rtol=1e-4)
        assert torch.equal(after["keypoints"][..., 2], seen)


def test_chance_is_torchs_alone(samples):
    dataset = real(samples)
    dataset.transform = TrainTransform((200, 250, 300), 600, jitter=0.2)
    torch.manual_seed(3)
    first = dataset[1]
    torch.manual_seed(3)
    again = dataset[1]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1]["boxes"], again[1]["boxes"])
    sizes = {dataset[1][0].shape for _ in range(20)}
    assert len(sizes) == 3


def test_the_longer_side_is_limited(made):
    folder, annotations = made
    image, _ = CocoDataset(folder, annotations, TestTransform(800, 90))[0]
    assert image.shape == (3, 60, 90)


def test_images_that_cannot_be_read(tmp_path, monkeypatch, made):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.jpg: not a readable image"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match="no such image; is the folder that of this split"):
        read_image(tmp_path / "gone.jpg")
    folder, _ = made
    data = (folder / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cut\.png: not a readable image"):
        read_image(tmp_path / "cut.png")
    monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="40 is beyond the limit of 1,000 pixels"):
        read_image(folder / "a.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 9}, "annotation 1 is of image 9, which is not in the list"),
        ({"category_id": 7}, "annotation 1 is of category 7; there are 1"),
        ({"bbox": [1, 2]}, "annotation 1 has no bbox of four numbers"),
    ],
)
def test_annotations_that_do_not_fit(made, change, said):
    folder, annotations = made
    annotations["annotations"][0] |= change
    with pytest.raises(ValueError, match=said):
        CocoDataset(folder, annotations)


def test_no_folder_and_wrong_options(made, tmp_path):
    _, annotations = made
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        CocoDataset(tmp_path / "gone", annotations)
    with pytest.raises(ValueError, match="short_sides must be"):
        TrainTransform((), 100)
    with pytest.raises(ValueError, match="flip is from 0 to 1"):
        TrainTransform(flip=2)
