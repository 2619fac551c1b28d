"""Image, boxes, masks and keypoints move together."""

import pytest
import torch

pytest.importorskip("pycocotools")
from torchvision import tv_tensors
from torchvision.ops import box_iou, masks_to_boxes

from coco_made_up import annotation, write
from nonlocalnet.detection.dataset import CocoDataset
from nonlocalnet.detection.transforms import (
    SHORT_SIDES,
    ImageTestTransform,
    ImageTrainTransform,
    RandomMirror,
    mirrored,
)

LEFT_AND_RIGHT = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
    "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
    "right_ankle"
)


def test_left_and_right_change_places_in_the_mirror(coco_content):
    (person,) = coco_content("person_keypoints_val")["categories"]
    names = person["keypoints"]
    assert names == LEFT_AND_RIGHT.split()
    for name, place in zip(names, mirrored(names), strict=True):
        word = {"left": "right", "righ": "left"}.get(name[:4], name)
        assert names[place] == name.replace("left", word).replace("right", word)


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["a", "b", "c"], (0, 1, 2)),
        (["left eye", "Right Eye", "left_ear"], (1, 0, 2)),
        (["L_Shoulder", "R_Shoulder", "eye-left", "eye-right"], (1, 0, 3, 2)),
        (["LeftHand", "RightHand", "leftover", "rightover"], (1, 0, 2, 3)),
    ],
)
def test_sides_are_told_by_the_names(names, places):
    assert mirrored(names) == places


def test_keypoints_of_other_names_change_places_or_are_refused(picture):
    names = ["left_ear", "tail", "right_ear"]
    cat = {"id": 1, "name": "cat", "keypoints": names}
    points = [11, 12, 2, 20, 21, 1, 30, 13, 2]
    file = write(picture, [annotation(1, keypoints=points)], categories=[cat])
    found = CocoDataset(picture, file, RandomMirror(1, names), keypoints=True)[0][1]["keypoints"]
    assert found[0].tolist() == [[63 - 30, 13, 2], [63 - 20, 21, 1], [63 - 11, 12, 2]]
    with pytest.raises(ValueError, match="3 keypoints, and 17 names were given"):
        CocoDataset(picture, file, RandomMirror(1), keypoints=True)[0]


def test_mirroring_moves_all_together(coco_dataset):
    plain, mirrored = (
        coco_dataset("person_keypoints_val", RandomMirror(p), keypoints=True) for p in (0, 1)
    )
    for i in range(len(plain)):
        (image, target), (flipped, other) = plain[i], mirrored[i]
        width = image.shape[-1]
        assert torch.equal(flipped, image.flip(-1))
        assert torch.equal(other["masks"], target["masks"].flip(-1))
        assert torch.equal(other["boxes"][:, [2, 0]], width - target["boxes"][:, [0, 2]])
        for left, right in [(1, 2), (5, 6), (15, 16)]:
            x, y, v = target["keypoints"][:, left].unbind(-1)
            expected = torch.stack([(width - 1 - x) * (v > 0), y, v], -1)
            assert torch.equal(other["keypoints"][:, right], expected)


def test_the_pixel_under_a_keypoint_stays_the_same_in_the_mirror(picture):
    points = [number for x in range(11, 28) for number in (x, x + 1, 2)]
    file = write(picture, [annotation(1, keypoints=points)])
    colors = []
    for p in (0, 1):
        image, target = CocoDataset(picture, file, RandomMirror(p), keypoints=True)[0]
        x, y, _ = target["keypoints"][0].long().unbind(-1)
        colors.append(image[:, y, x])
    assert torch.equal(colors[0], colors[1][:, mirrored(LEFT_AND_RIGHT.split())])


def test_a_keypoint_is_mirrored_before_it_is_scaled(picture):
    """The other way round, the half pixel of a pixel's center would depend on the scale."""
    file = write(picture, [annotation(1, keypoints=[10, 20, 2] * 17)])
    _, target = CocoDataset(picture, file, ImageTrainTransform(96, 200, flip=1), keypoints=True)[0]
    assert target["keypoints"][0, 0].tolist() == [(64 - 1 - 10) * 2, 40, 2]


@pytest.mark.parametrize("flip", [0, 1])
def test_augmentation_moves_boxes_masks_and_keypoints_together(coco_dataset, flip):
    data = coco_dataset(
        "person_keypoints_train",
        ImageTrainTransform((500, 900), 1000, flip=flip, jitter=0.3),
        keypoints=True,
    )
    torch.manual_seed(0)
    checked = 0
    for i in range(len(data)):
        image, target = data[i]
        height, width = image.shape[1:]
        scale = height / target["size"][0]
        assert target["boxes"].canvas_size == (height, width)
        assert target["masks"].shape[1:] == (height, width)
        drawn = masks_to_boxes(target["masks"]) + torch.tensor([0, 0, 1, 1])
        large = target["area"] > 2000
        assert (box_iou(drawn[large], target["boxes"][large]).diag() > 0.9).all()
        for points, box, mask in zip(
            target["keypoints"], target["boxes"], target["masks"], strict=True
        ):
            assert (points[points[:, 2] == 0] == 0).all()
            x, y = points[points[:, 2] == 2, :2].unbind(-1)
            room = 3 * scale
            assert (x >= box[0] - room).all()
            assert (x <= box[2] + room).all()
            assert (y >= box[1] - room).all()
            assert (y <= box[3] + room).all()
            on = mask[y.long().clamp(max=height - 1), x.long().clamp(max=width - 1)]
            checked += len(on)
            if len(on) > 8:
                assert on.float().mean() > 0.7  # annotators click beside limbs
    assert checked > 100


def test_the_short_side_is_drawn_from_the_list_and_the_long_one_bounded(coco_dataset):
    torch.manual_seed(0)
    image = tv_tensors.Image(torch.zeros(3, 10, 12, dtype=torch.uint8))
    transform = ImageTrainTransform(SHORT_SIDES)
    assert {min(transform(image, {})[0].shape[1:]) for _ in range(60)} == set(SHORT_SIDES)
    wide = tv_tensors.Image(torch.zeros(3, 10, 40, dtype=torch.uint8))
    assert transform(wide, {})[0].shape[1:] == (333, 1333)
    assert ImageTestTransform()(image, {})[0].shape[1:] == (800, 960)
    assert ImageTestTransform()(wide, {})[0].shape[1:] == (333, 1333)


def test_chance_is_torchs_alone(coco_dataset):
    data = coco_dataset("person_keypoints_val", ImageTrainTransform((30, 40, 50), 90, jitter=0.5))
    torch.manual_seed(3)
    first = [data[0] for _ in range(8)]
    torch.manual_seed(3)
    again = [data[0] for _ in range(8)]
    assert len({tuple(image.shape) for image, _ in first}) > 1
    for (image, target), (image2, target2) in zip(first, again, strict=True):
        assert torch.equal(image, image2)
        assert torch.equal(target["boxes"], target2["boxes"])
        assert torch.equal(target["masks"], target2["masks"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": ()}, "short sides must be pixels below max_size"),
        ({"short_side": (640, 1333)}, "short sides must be pixels below max_size"),
        ({"flip": 1.5}, "flip is a probability"),
        ({"jitter": -1}, "jitter is a share"),
    ],
)
def test_impossible_augmentation_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageTrainTransform(**options)
