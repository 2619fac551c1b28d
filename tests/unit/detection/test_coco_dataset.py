import copy
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("pycocotools")
from PIL import Image
from pycocotools import mask as run_lengths
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from coco_made_up import SQUARE, annotation, write
from nonlocalnet.data.seeding import Draw
from nonlocalnet.detection.annotations import CocoError
from nonlocalnet.detection.dataset import CocoDataset
from nonlocalnet.detection.transforms import ImageTestTransform, RandomMirror


def of(folder, *annotations, **options):
    return CocoDataset(folder, write(folder, list(annotations)), **options)


def test_an_item_holds_what_the_annotations_say(coco_dataset, coco_content):
    data = coco_dataset("instances_val", training=False)
    image, target = data[7]
    entry = next(
        i for i in coco_content("instances_val")["images"] if i["id"] == target["image_id"]
    )
    said = [a for a in coco_content("instances_val")["annotations"] if a["image_id"] == entry["id"]]
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


def test_boxes_and_areas_are_those_of_the_masks(coco_dataset):
    data = coco_dataset("instances_val")
    for i in range(0, len(data), 5):
        _, target = data[i]
        large = target["area"] > 500
        masks, boxes = target["masks"][large], target["boxes"][large]
        drawn = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
        assert (drawn - boxes).abs().max() <= 2
        area = masks.flatten(1).sum(1)
        assert torch.allclose(area.float(), target["area"][large], rtol=0.1)


def test_crowds_are_for_testing_alone(coco_dataset, coco_content):
    said = coco_content("instances_train")["annotations"]
    crowds = sum(a["iscrowd"] for a in said)
    assert crowds > 0
    for training in (True, False):
        data = coco_dataset("instances_train", training=training, masks=False)
        labels = [data._load_target(id)["iscrowd"] for id in data.ids]
        assert sum(map(len, labels)) == len(said) - crowds * training
        assert torch.cat(labels).sum() == crowds * (not training)
        assert "masks" not in data[0][1]


def test_keypoints_are_learnt_from_persons_with_a_visible_one(coco_dataset, coco_content):
    said = coco_content("person_keypoints_val")
    posed = [a for a in said["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    data = coco_dataset("person_keypoints_val", keypoints=True)
    assert data.ids == sorted({a["image_id"] for a in posed})
    assert data.classes == ["__background__", "person"]
    for i in range(len(data)):
        _, target = data[i]
        mine = [a for a in posed if a["image_id"] == target["image_id"]]
        expected = torch.tensor([a["keypoints"] for a in mine]).float().view(-1, 17, 3)
        assert torch.equal(target["keypoints"], expected)
        assert "visibility" not in target
    whole = coco_dataset("person_keypoints_val", keypoints=True, training=False)
    assert len(whole) == len(said["images"])
    assert len(coco_dataset("person_keypoints_val", keypoints=True, keep_empty=True)) == len(whole)


def test_an_image_without_objects_has_empty_targets(coco_dataset):
    data = coco_dataset(
        "person_keypoints_val", ImageTestTransform(32, 64), keypoints=True, training=False
    )
    items = (data[i] for i in range(len(data)))
    image, target = next(item for item in items if not len(item[1]["boxes"]))
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
        ('{"images": [], "categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}',
         "categories 'cat' and 'dog' have the same id 1"),
        ('{"images": [{"id": 3, "file_name": "a.jpg", "height": 1, "width": 1}, {"id": 3, '
         '"file_name": "b.jpg", "height": 1, "width": 1}], "categories": []}',
         "images 'a.jpg' and 'b.jpg' have the same id 3"),
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
        CocoDataset(picture, file, training=False)[0]


def test_categories_must_be_known(picture):
    with pytest.raises(CocoError, match="annotation 4 is of category 91, which the file does not"):
        of(picture, annotation(4, category=91))


def test_ids_that_cannot_be_labels_are_numbered_from_1(picture):
    for ids in ([0, 1], [-4, 7], [3, 10**9]):
        categories = [{"id": ids[1], "name": "b"}, {"id": ids[0], "name": "a"}]
        objects = [annotation(i, category=id) for i, id in enumerate(ids)]
        data = CocoDataset(picture, write(picture, objects, categories=categories))
        assert data.classes == ["__background__", "a", "b"]
        assert data[0][1]["labels"].tolist() == [1, 2]


def test_there_are_as_many_keypoints_as_the_categories_name(picture):
    points = [11, 12, 2, 20, 21, 1, 0, 0, 0]
    names = ["nose", "left_ear", "right_ear"]
    cat = {"id": 1, "name": "cat", "keypoints": names}
    file = write(picture, [annotation(1, keypoints=points)], categories=[cat])
    data = CocoDataset(picture, file, keypoints=True)
    assert data.keypoint_names == tuple(names)
    assert data[0][1]["keypoints"].tolist() == [[[11, 12, 2], [20, 21, 1], [0, 0, 0]]]
    wrong = write(picture, [annotation(8)], categories=[cat])
    with pytest.raises(CocoError, match="of annotation 8, for one, its keypoints must be 3 times"):
        CocoDataset(picture, wrong, keypoints=True)
    dog = {"id": 2, "name": "dog", "keypoints": names[:2]}
    mixed = write(picture, [annotation(1, keypoints=points)], categories=[cat, dog])
    with pytest.raises(CocoError, match="'cat' and 'dog' name different keypoints"):
        CocoDataset(picture, mixed, keypoints=True)


def test_images_that_cannot_be_decoded_are_named(picture, monkeypatch):
    data, file = of(picture, annotation(1), training=False), picture / "1.png"
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
        with (
            warnings.catch_warnings(action="error"),
            pytest.raises(CocoError, match=f"{limit:,} pixels"),
        ):
            data[0]


def test_grey_and_palette_images_are_rgb(picture):
    for mode in ("L", "P", "1", "RGBA", "I;16"):
        Image.new(mode, (64, 48)).save(picture / "1.png")
        assert of(picture, annotation(1))[0][0].shape == (3, 48, 64)


def test_sixteen_bits_and_transparency_are_seen_as_people_see_them(picture):
    Image.fromarray(np.full((48, 64), 40_000, np.uint16)).save(picture / "1.png")
    assert of(picture, annotation(1))[0][0].unique().tolist() == [156]  # 40000 / 257
    Image.new("RGBA", (64, 48), (0, 0, 0, 0)).save(picture / "1.png")
    assert of(picture, annotation(1))[0][0].unique().tolist() == [255]


def test_errors_and_data_sets_reach_other_processes(picture):
    data = of(picture, annotation(1), training=False)
    assert len(pickle.loads(pickle.dumps(data))[0][1]["boxes"]) == 1
    error = copy.copy(CocoError(picture, "why"))
    assert str(pickle.loads(pickle.dumps(error))) == f"{picture}: why"
    (picture / "1.png").unlink()
    with pytest.raises(CocoError, match="no such image"):
        list(DataLoader(data, num_workers=1, collate_fn=list))


def test_in_training_another_image_takes_the_place_of_a_broken_one(coco_dataset, tmp_path):
    data = coco_dataset("instances_val")
    broken = tmp_path / "images"
    shutil.copytree(data.images, broken)
    (broken / Path(data.name(3)).name).write_bytes(b"no image")
    data = CocoDataset(broken, data.annotations, masks=False)
    draw = Draw(3, seed=5)
    ids = [data[draw][1]["image_id"] for _ in range(3)]
    assert len(set(ids)) == 1  # chance is the draw's seed
    assert ids[0] != data.ids[3]
    assert data.bad_indices() == [3]
    strict = CocoDataset(broken, data.annotations, masks=False, max_bad=0)
    with pytest.raises(RuntimeError, match=r"1 of \d+ images cannot be read, more than max_bad"):
        strict[3]


def test_a_draw_depends_on_its_seed_alone(coco_dataset):
    data = coco_dataset("instances_val", RandomMirror(0.5))
    plain = {i: coco_dataset("instances_val")[i][0] for i in (0, 1)}
    mirrored = [[not torch.equal(data[Draw(i, s)][0], plain[i]) for s in range(12)] for i in (0, 1)]
    assert mirrored[0] == mirrored[1]
    assert 0 < sum(mirrored[0]) < 12


def test_labels_have_their_names(picture):
    categories = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}]
    file = write(picture, [annotation(1, category=3)], categories=categories)
    assert CocoDataset(picture, file).classes == ["__background__", "person", "N/A", "car"]
