"""COCO's folders as they are unpacked, and other ways to name annotations and images."""

import pytest

from nonlocalnet.detection.annotations import CocoError
from nonlocalnet.detection.find import CocoSplit, find_coco, find_test


def make(folder, *files):
    for name in files:
        path = folder / name
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        else:
            path.mkdir(parents=True)
    return folder


def test_as_it_is_unpacked(tmp_path):
    coco = make(
        tmp_path,
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
        "annotations/person_keypoints_train2017.json",
        "train2017",
        "val2017",
    )
    train, val = find_coco(coco, "instances")
    assert train == CocoSplit(coco / "annotations/instances_train2017.json", coco / "train2017")
    assert val == CocoSplit(coco / "annotations/instances_val2017.json", coco / "val2017")
    assert find_test(coco, "instances") == val
    train, val = find_coco(coco, "person_keypoints")
    assert (train.annotations.name, val) == ("person_keypoints_train2017.json", None)
    with pytest.raises(CocoError, match=r"no person_keypoints_val\*\.json there or in"):
        find_test(coco, "person_keypoints")


def test_a_folder_of_samples(coco):
    train, val = find_coco(coco, "instances")
    assert train.images == val.images == coco / "images"


@pytest.mark.parametrize(
    ("folders", "root", "expected"),
    [
        (["train2017"], None, "train2017"),
        (["images/train2017"], None, "images/train2017"),
        (["images"], None, "images"),
        ([], None, "."),
        (["else/train2017", "train2017"], "else", "else/train2017"),
        (["else", "train2017"], "else", "else"),
    ],
)
def test_where_images_are(tmp_path, folders, root, expected):
    make(tmp_path, "annotations/instances_train2017.json", *folders)
    file = tmp_path / "annotations/instances_train2017.json"
    for data in (tmp_path, file):
        train, val = find_coco(data, "instances", root=root and tmp_path / root)
        assert (train.annotations, train.images) == (file, tmp_path / expected)
        assert val is None


def test_what_is_unclear_is_refused(tmp_path):
    make(tmp_path, "instances_train2014.json", "instances_train2017.json")
    with pytest.raises(
        CocoError, match=r"several annotation files: instances_train2014\.json, inst"
    ):
        find_coco(tmp_path, "instances")
    file = tmp_path / "instances_train2017.json"
    with pytest.raises(CocoError, match="no such folder of images; root names it"):
        find_coco(file, "instances", root=tmp_path / "no")
    with pytest.raises(CocoError, match=r"no instances_val\*\.json"):
        find_coco(file, "instances", val=tmp_path)
    train, val = find_coco(file, "instances", val=tmp_path / "instances_train2014.json")
    assert (train.annotations.name, val.annotations.name[-9:]) == (file.name, "2014.json")
