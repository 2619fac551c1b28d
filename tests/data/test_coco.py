import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("pycocotools")
from PIL import Image
from pycocotools import mask as run_lengths
from test_coco_check import SQUARE, annotation, write
from torchvision import tv_tensors
from torchvision.ops import box_iou, masks_to_boxes

from nonlocalnet.data.coco import CocoDataset
from nonlocalnet.data.coco_files import CocoError
from nonlocalnet.data.coco_transforms import (
    MIRRORED,
    SHORT_SIDES,
    ImageTestTransform,
    ImageTrainTransform,
    RandomMirror,
)


@pytest.fixture
def real(shared):
    folder = shared / "data/coco"

    def make(name, *transform, **options):
        return CocoDataset(folder / "images", folder / f"{name}.json", *transform, **options)

    return make


@pytest.fixture
def content(shared):
    return lambda name: json.loads((shared / f"data/coco/{name}.json").read_text())


@pytest.fixture
def picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.png")
    return tmp_path


def of(folder, *annotations, **options):
    return CocoDataset(folder, write(folder, list(annotations)), **options)


def test_an_item_holds_what_the_annotations_say(real, content):
    data = real("instances_val", training=False)
    image, target = data[7]
    entry = next(i for i in content("instances_val")["images"] if i["id"] == target["image_id"])
    said = [a for a in content("instances_val")["annotations"] if a["image_id"] == entry["id"]]
    size = entry["height"], entry["width"]
    assert isinstance(image, tv_tensors.Image)
    assert image.dtype == torch.uint8
    assert tuple(image.shape) == (3, *size)
    with Image.open(data.images / entry["file_name"]) as file:
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(file.convert("RGB")))
    assert target["size"] == size
    assert target["labels"].tolist() == [a["category_id"] for a in said]
    assert target["iscrowd"].tolist() == [a["iscrowd"] for a in said]
    assert target["area"].tolist() == pytest.approx([a["area"] for a in said])
    xywh = torch.tensor([a["bbox"] for a in said])
    corners = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
    assert torch.allclose(target["boxes"].as_subclass(torch.Tensor), corners, atol=1e-3)
    assert target["boxes"].format == tv_tensors.BoundingBoxFormat.XYXY
    assert target["masks"].shape == (len(said), *size)
    assert target["masks"].dtype == torch.uint8


def test_boxes_and_areas_are_those_of_the_masks(real):
    data = real("instances_val")
    for i in range(0, len(data), 5):
        _, target = data[i]
        large = target["area"] > 500
        masks, boxes = target["masks"][large], target["boxes"][large]
        drawn = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
        assert (drawn - boxes).abs().max() <= 2
        area = masks.flatten(1).sum(1)
        assert torch.allclose(area.float(), target["area"][large], rtol=0.1)


def test_crowds_are_for_testing_alone(real, content):
    said = content("instances_train")["annotations"]
    crowds = sum(a["iscrowd"] for a in said)
    assert crowds > 0
    for training in (True, False):
        data = real("instances_train", training=training, masks=False)
        labels = [data._load_target(id)["iscrowd"] for id in data.ids]
        assert sum(map(len, labels)) == len(said) - crowds * training
        assert torch.cat(labels).sum() == crowds * (not training)
        assert "masks" not in data[0][1]


def test_keypoints_are_learnt_from_persons_with_a_visible_one(real, content):
    said = content("person_keypoints_val")
    posed = [a for a in said["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    data = real("person_keypoints_val", keypoints=True)
    assert data.ids == sorted({a["image_id"] for a in posed})
    assert data.classes == {1: "person"}
    for i in range(len(data)):
        _, target = data[i]
        mine = [a for a in posed if a["image_id"] == target["image_id"]]
        expected = torch.tensor([a["keypoints"] for a in mine]).float().view(-1, 17, 3)
        assert torch.equal(target["keypoints"], expected)
        assert "visibility" not in target
    whole = real("person_keypoints_val", keypoints=True, training=False)
    assert len(whole) == len(said["images"])
    assert len(real("person_keypoints_val", keypoints=True, keep_empty=True)) == len(whole)


def test_an_image_without_objects_has_empty_targets(real):
    data = real("person_keypoints_val", ImageTestTransform(32, 64), keypoints=True, training=False)
    empty = next(i for i, id in enumerate(data.ids) if not data._objects[id])
    image, target = data[empty]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == target["area"].shape == target["iscrowd"].shape == (0,)
    assert target["masks"].shape == (0, *image.shape[1:])
    assert target["keypoints"].shape == (0, 17, 3)


@pytest.mark.parametrize(
    "fault",
    [
        {"bbox": [10, 10, 0, 20]},
        {"bbox": [64, 10, 20, 20]},
        {"bbox": [10, 10, 20]},
        {"segmentation": []},
        {"segmentation": {"size": [48, 64], "counts": "P" * 50}},
        {"keypoints": [1, 2, 2]},
    ],
)
def test_objects_that_cannot_be_used_are_left_out(picture, fault):
    data = of(picture, annotation(1, **fault), annotation(2, area=7), keypoints=True)
    assert data[0][1]["area"].tolist() == [7]
    with pytest.raises(CocoError, match="has no image with keypoints to learn from"):
        of(picture, annotation(1, **fault), keypoints=True)


def test_what_a_run_does_not_ask_for_may_be_broken(picture):
    broken = annotation(1, segmentation="x", keypoints=[1])
    assert len(of(picture, broken, masks=False)) == 1


def test_boxes_are_cut_off_at_the_border(picture):
    data = of(picture, annotation(1, bbox=[-5, 20, 200, 200]))
    assert data[0][1]["boxes"].tolist() == [[0, 20, 64, 48]]


def test_area_and_crowd_may_be_left_out(picture):
    bare = annotation(1)
    del bare["area"], bare["iscrowd"]
    _, target = of(picture, bare)[0]
    assert target["area"].tolist() == [400]
    assert target["iscrowd"].tolist() == [0]


def test_compressed_run_lengths_are_drawn_too(picture):
    coded = run_lengths.frPyObjects([SQUARE], 48, 64)[0]
    coded = {"size": [48, 64], "counts": coded["counts"].decode()}
    data = of(picture, annotation(1), annotation(2, segmentation=coded))
    polygon, compressed = data[0][1]["masks"]
    assert polygon.sum() == 400
    assert torch.equal(polygon, compressed)


LEFT_AND_RIGHT = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
    "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
    "right_ankle"
)


def test_left_and_right_change_places_in_the_mirror(content):
    (person,) = content("person_keypoints_val")["categories"]
    names = person["keypoints"]
    assert names == LEFT_AND_RIGHT.split()
    for name, place in zip(names, MIRRORED, strict=True):
        word = {"left": "right", "righ": "left"}.get(name[:4], name)
        assert names[place] == name.replace("left", word).replace("right", word)


def test_mirroring_moves_all_together(real):
    plain, mirrored = (
        real("person_keypoints_val", RandomMirror(p), keypoints=True) for p in (0, 1)
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
    points = [[x, y, 2] for x, y in zip(range(11, 28), range(12, 29), strict=True)]
    person = annotation(1, keypoints=sum(points, []))
    colours = []
    for p in (0, 1):
        image, target = of(picture, person, transform=RandomMirror(p), keypoints=True)[0]
        x, y, _ = target["keypoints"][0].long().unbind(-1)
        colours.append(image[:, y, x])
    assert torch.equal(colours[0], colours[1][:, MIRRORED])


@pytest.mark.parametrize("flip", [0, 1])
def test_augmentation_moves_boxes_masks_and_keypoints_together(real, flip):
    data = real(
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


def test_the_short_side_is_drawn_from_the_list_and_the_long_one_bounded(real):
    torch.manual_seed(0)
    image = tv_tensors.Image(torch.zeros(3, 10, 12, dtype=torch.uint8))
    transform = ImageTrainTransform(SHORT_SIDES)
    assert {min(transform(image, {})[0].shape[1:]) for _ in range(60)} == set(SHORT_SIDES)
    wide = tv_tensors.Image(torch.zeros(3, 10, 40, dtype=torch.uint8))
    assert transform(wide, {})[0].shape[1:] == (333, 1333)
    assert ImageTestTransform()(image, {})[0].shape[1:] == (800, 960)
    assert ImageTestTransform()(wide, {})[0].shape[1:] == (333, 1333)


def test_chance_is_torchs_alone(real):
    data = real("person_keypoints_val", ImageTrainTransform((30, 40, 50), 90, jitter=0.5))
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable as JSON"),
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        (b"\xff\xfe\x00", "not readable as JSON"),
        ("[]", "expected COCO's JSON object, got a list"),
        ("{}", "has no list of images"),
        ('{"images": [], "categories": []}', "has no image with objects"),
        ('{"images": [{"id": 1}], "categories": []}', "entry 0 of its images has no file_name"),
        ('{"images": [7], "categories": []}', "entry 0 of its images has no id"),
        ('{"images": [], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}], '
         '"categories": []}', "no category_id of type int: pass a file of instances"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_cocos_is_refused(tmp_path, text, message):
    file = tmp_path / "instances.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CocoError, match=message) as caught:
        CocoDataset(tmp_path, file)
    assert str(caught.value).startswith(f"{file}: ")


def test_missing_files_are_named(tmp_path, picture):
    with pytest.raises(CocoError, match=r"no\.json: cannot be read \(No such file"):
        CocoDataset(tmp_path, tmp_path / "no.json")
    file = write(picture, [annotation(1)])
    with pytest.raises(CocoError, match="images: no such folder"):
        CocoDataset(tmp_path / "images", file)
    (picture / "1.png").unlink()
    with pytest.raises(CocoError, match=r"1\.png: no such image: put it there"):
        CocoDataset(picture, file)[0]


def test_categories_must_be_known(picture):
    with pytest.raises(CocoError, match="annotation 4 is of category 91, which the file does not"):
        of(picture, annotation(4, category=91))
    file = write(picture, [annotation(1, category=0)], categories=[{"id": 0, "name": "a"}])
    with pytest.raises(CocoError, match="a category below 1; 0 is the background"):
        CocoDataset(picture, file)


def test_images_that_cannot_be_decoded_are_named(picture, monkeypatch):
    data, file = of(picture, annotation(1)), picture / "1.png"
    whole = file.read_bytes()
    for bad in (whole[:2000], b"", b"no image", whole[:40] + b"x" * 200):
        file.write_bytes(bad)
        with pytest.raises(CocoError, match=r"1\.png: not a readable image"):
            data[0]
    Image.new("RGB", (48, 64)).save(file)
    with pytest.raises(CocoError, match=r"is 48x64, .*instances\.json says 64x48"):
        data[0]
    file.write_bytes(whole)
    for limit in (1000, 2000):  # beyond twice the limit Pillow raises, below it warns
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings(action="error"), pytest.raises(CocoError, match="1,?[05]?00|2,000"):
            data[0]


def test_grey_and_palette_images_are_rgb(picture):
    for mode in ("L", "P", "1", "RGBA", "I;16"):
        Image.new(mode, (64, 48)).save(picture / "1.png")
        assert of(picture, annotation(1))[0][0].shape == (3, 48, 64)


def test_errors_and_data_sets_reach_other_processes(picture):
    data = of(picture, annotation(1))
    assert len(pickle.loads(pickle.dumps(data))[0][1]["boxes"]) == 1
    error = copy.copy(CocoError(picture, "why"))
    assert str(pickle.loads(pickle.dumps(error))) == f"{picture}: why"
    (picture / "1.png").unlink()
    with pytest.raises(CocoError, match="no such image"):
        list(DataLoader(data, num_workers=1, collate_fn=list))
