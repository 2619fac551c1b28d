import json

import pytest

pytest.importorskip("PIL")
from coco_made_up import POINTS, SQUARE, annotation, write
from nonlocalnet.cli import main
from nonlocalnet.detection.annotations import CocoError
from nonlocalnet.detection.check import UNFIT, check_annotations


def test_clean_annotations_are_clean(coco, coco_content):
    report = check_annotations(coco / "images", coco / "instances_val.json")
    content = coco_content("instances_val")
    images, objects = len(content["images"]), len(content["annotations"])
    crowds = sum(one["iscrowd"] for one in content["annotations"])
    assert report.findings == []
    assert report.counts() == {}
    assert (report.images, report.annotations, report.crowds) == (images, objects, crowds)
    assert sum(report.categories.values()) == objects
    assert len(report.categories) == 80


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        ("unknown image", {"image": 9}, "no image has the id 9"),
        ("unknown category", {"category": 9}, "it is of category 9, which the file does not list"),
        ("box", {"bbox": [10, 10, 0, 20]}, "has no area"),
        ("box", {"bbox": [10, 10, 20, -20]}, "has no area"),
        ("box", {"bbox": [70, 10, 20, 20]}, "within the 64x48 image"),
        ("box", {"bbox": [10, 10, 20]}, "must be 4 numbers"),
        ("box", {"bbox": [10, 10, 20, None]}, "must be 4 numbers"),
        ("box", {"bbox": [10, 10, 20, float("nan")]}, "must be 4 numbers"),
        ("outside", {"bbox": [10, 10, 60, 20]}, "leaves the 64x48 image"),
        ("segmentation", {"segmentation": []}, "empty"),
        ("segmentation", {"segmentation": [[]]}, "3 points"),
        ("segmentation", {"segmentation": [SQUARE[:4]]}, "3 points"),
        ("segmentation", {"segmentation": [SQUARE[:7]]}, "3 points"),
        ("segmentation", {"segmentation": [[*SQUARE, 1e9, 1]]}, "leaves the image"),
        ("segmentation", {"segmentation": [[*SQUARE, "1", 1]]}, "not consist of numbers"),
        ("segmentation", {"segmentation": "x"}, "neither polygons nor run lengths"),
        ("segmentation", {"segmentation": {"size": [64, 48], "counts": [3072]}}, "of the size"),
        ("segmentation", {"segmentation": {"size": [48, 64], "counts": [3071]}}, "cover 3071"),
        ("segmentation", {"segmentation": {"size": [48, 64], "counts": [-1, 3073]}}, "no counts"),
        ("segmentation", {"segmentation": {"size": [48, 64], "counts": "é~"}}, "no counts"),
        ("segmentation", {"segmentation": {"size": [48, 64], "counts": ""}}, "cover 0 pixels"),
        ("keypoints", {"keypoints": POINTS[:50]}, "they are 50 numbers"),
        ("keypoints", {"keypoints": POINTS[:48]}, "must be 17 times x, y, visibility"),
        ("keypoints", {"keypoints": [15, 15, 3] * 17}, "visibility is 0, 1 or 2"),
        ("keypoints", {"keypoints": [15, None, 2] * 17}, "not consist of coordinates"),
        ("num_keypoints", {"num_keypoints": 17}, "num_keypoints is 17, 16 are marked"),
    ],
)
def test_a_broken_annotation_is_found(picture, kind, changes, text):
    file = write(picture, [annotation(5), annotation(6, **changes)])
    (finding,) = check_annotations(picture, file).findings
    assert finding.kind == kind
    assert text in finding.text
    assert finding.where == f"annotation 6 of image {changes.get('image', 1)}"


BOX = annotation(1)
del BOX["segmentation"], BOX["keypoints"]
ZERO = [{"id": 0, "name": "a"}]
FIVE = [{"id": 1, "name": "cat", "keypoints": list("abcde")}]
TWO = [*FIVE, {"id": 2, "name": "dog", "keypoints": ["a"]}]


@pytest.mark.parametrize(
    ("annotations", "changes", "parts"),
    [
        ([annotation(1)], {}, ("masks", "keypoints")),
        (
            [annotation(1, category=0)],
            {"categories": [{"id": 0, "name": "a"}]},
            ("masks", "keypoints"),
        ),
        ([annotation(1, keypoints=[15, 15, 2] * 5)], {"categories": FIVE}, ("masks", "keypoints")),
        ([annotation(1)], {"categories": FIVE}, ("masks",)),
        ([annotation(1, keypoints=[15, 15, 2] * 5)], {"categories": TWO}, ("masks",)),
        ([annotation(1, keypoints=[15, 15, 2] * 5)], {}, ("masks",)),
        ([annotation(1, category=3)], {}, ()),
        ([BOX], {}, ()),
        ([annotation(1), BOX], {}, ()),
    ],
)
def test_what_the_check_passes_is_trained_and_tested_and_nothing_else(
    picture, annotations, changes, parts
):
    pytest.importorskip("faster_coco_eval")
    from nonlocalnet.detection.coco_eval import CocoEvaluator
    from nonlocalnet.detection.dataset import CocoDataset

    file = write(picture, annotations, **changes)
    taken = []
    for part, score in (("masks", "segm"), ("keypoints", "keypoints")):
        keypoints = part == "keypoints"
        try:
            CocoDataset(picture, file, keypoints=keypoints, masks=not keypoints)
            CocoEvaluator(file, ["bbox", score])
            taken.append(part)
        except CocoError:
            pass
    assert tuple(taken) == parts
    report = check_annotations(picture, file)
    unfit = [kind for kind in report.counts() if kind in UNFIT]
    assert (not unfit) == (parts == ("masks", "keypoints"))
    assert all(report.learnable[part] for part in parts)


def test_run_lengths_of_both_kinds_are_fit(picture):
    mask = pytest.importorskip("pycocotools.mask")
    coded = mask.frPyObjects([SQUARE], 48, 64)[0]
    compressed = {"size": [48, 64], "counts": coded["counts"].decode()}
    plain = {"size": [48, 64], "counts": [0, 3072]}
    found = [annotation(i, segmentation=s) for i, s in enumerate((compressed, plain), 1)]
    assert check_annotations(picture, write(picture, found)).findings == []


def test_images_that_are_missing_broken_or_of_another_size_are_found(picture):
    whole = (picture / "1.png").read_bytes()
    (picture / "2.png").write_bytes(whole[:60])
    (picture / "3.png").write_bytes(whole)
    images = [(1, 64, 48), (2, 64, 48), (3, 48, 64), (4, 64, 48)]
    done = []
    report = check_annotations(
        picture,
        write(picture, [annotation(1, iscrowd=1)], images),
        progress=lambda count, text: done.append((count, text)),
    )
    found = {f.where: (f.kind, f.text) for f in report.findings}
    assert found.keys() == {str(picture / f"{i}.png") for i in (2, 3, 4)}
    assert found[str(picture / "2.png")][0] == "unreadable"
    assert found[str(picture / "3.png")] == ("size", "is 64x48, annotated as 48x64")
    assert found[str(picture / "4.png")][0] == "missing"
    assert sum(count for count, _ in done) == 4
    assert done[-1][1] == "3 bad"
    assert (report.crowds, report.empty) == (1, 3)


def test_the_report_is_a_table_and_json(picture):
    file = write(picture, [annotation(5), annotation(5, bbox=[0, 0, 0, 0])])
    report = check_annotations(picture, file)
    assert report.counts() == {"box": 1, "duplicate": 1}
    rows = report.as_rows()
    assert ("annotations", "2", "") in rows
    assert ("box", "1", "no") in rows
    assert ("duplicate", "1", "yes") in rows
    content = json.loads(report.as_json())
    assert content["counts"] == report.counts()
    assert content["categories"] == {"person": 2}
    assert {f["kind"] for f in content["findings"]} == {"box", "duplicate"}


def test_a_file_that_is_not_cocos_is_refused(picture):
    with pytest.raises(CocoError, match="has no list of categories"):
        check_annotations(picture, write(picture, [], categories=None))


def test_the_command_shows_what_is_unfit(picture, tmp_path, capsys):
    found = tmp_path / "found.json"
    file = write(picture, [annotation(5), annotation(6, bbox=[1, 2, 3])], [(1, 64, 48), (2, 9, 9)])
    words = ["data", "check", str(file), "--images", str(picture), "--workers", "1"]
    assert main([*words, "--json", str(found)]) == 1
    said = capsys.readouterr().out
    assert "annotation 6 of image 1" in said
    assert "2.png" in said
    assert ["box", "1", "no"] in [row.replace("│", " ").split() for row in said.splitlines()]
    assert json.loads(found.read_text())["counts"] == {"missing": 1, "box": 1}


def test_the_command_forgives_what_is_fit(picture, capsys):
    file = write(picture, [annotation(5), annotation(6, num_keypoints=17)])
    words = ["data", "check", str(file), "--images", str(picture), "--workers", "1"]
    assert main(words) == 0
    assert "num_keypoints is 17, 16 are marked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "nowhere"], "no folder nowhere"),
        ([], "pass the folder of their images as --images"),
        (["--images", ".", "--val", "."], "--val has no use"),
        (["--images", ".", "--root", "."], "--root has no use"),
        (["--images", ".", "--classes", "."], "--classes has no use"),
        (["--images", ".", "--split", "2"], "--split has no use"),
        (["--images", ".", "--out", "x"], "--out has no use"),
        (["--images", ".", "--min-frames", "2"], "--min-frames has no use"),
        (["--images", ".", "--time-limit", "0"], "--time-limit must be above 0"),
    ],
)
def test_the_command_refuses_what_means_nothing_here(picture, words, said, capsys, monkeypatch):
    monkeypatch.chdir(picture)
    file = write(picture, [annotation(5)])
    assert main(["data", "check", str(file), *words]) == 2
    streams = capsys.readouterr()
    assert said in streams.err
    assert streams.err.count("\n") == 1
    assert streams.out == ""
