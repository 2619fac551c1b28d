"""Small trees of every form in which data sets come; nothing is decoded."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from nonlocalnet.checkpoints.metadata import kinetics_classes
from nonlocalnet.data.datasets import VideoRecord, read_dataset


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def short(records: list[VideoRecord] | None, root: Path) -> list[tuple[str, tuple[int, ...]]]:
    return [(r.path.relative_to(root).as_posix(), r.labels) for r in records or []]


@pytest.fixture
def names(request):
    """names(file, made_up): the data set's own names of classes where they are given."""

    def read(file: str, made_up: list[str]) -> list[str]:
        path = request.config.given / "data/labels" / file
        return path.read_text().splitlines() if path.exists() else made_up

    return read


@pytest.mark.parametrize("val", ["val", "validation"])
def test_split_folders(tmp_path, val):
    touch(tmp_path / "train/air drumming/a.mp4", tmp_path / "train/zumba/b.mp4")
    touch(tmp_path / val / "air_drumming/c.mp4", tmp_path / "test/x/d.mp4")
    data = read_dataset(tmp_path)
    assert data.classes == ["air drumming", "zumba"]
    assert short(data.train, tmp_path) == [
        ("train/air drumming/a.mp4", (0,)),
        ("train/zumba/b.mp4", (1,)),
    ]
    assert short(data.val, tmp_path) == [(f"{val}/air_drumming/c.mp4", (0,))]
    assert (data.multi_label, data.mirrored, data.missing) == (False, True, 0)
    swapped = read_dataset(tmp_path, classes=["zumba", "air drumming"])
    assert [r.labels for r in swapped.train] == [(1,), (0,)]
    touch(tmp_path / val / "juggling/e.mp4")
    with pytest.raises(ValueError, match=r"juggling.e\.mp4: class 'juggling' is none of the 2"):
        read_dataset(tmp_path)


def kinetics(tmp_path: Path, lie: str) -> tuple[Path, list]:
    """Every class once in train, every second in val; files as `lie` says, a few missing."""
    classes = kinetics_classes()
    rng, rows = random.Random(0), []
    for i, label in enumerate(classes):
        for split, every in (("train", 1), ("validate", 2)):
            if i % every == 0:
                rows.append([label, f"-{split[0]}_{i:08d}", i, i + 10, split])
    rng.shuffle(rows)
    for split in ("train", "validate"):
        with (tmp_path / f"kinetics_{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["label", "youtube_id", "time_start", "time_end", "split", "is_cc"])
            table.writerows([*row, 0] for row in rows if row[4] == split)
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\nx,1,11,test\n")
    for i, (label, name, start, end, split) in enumerate(rows):
        place = lie.format(
            split=split, label=label, under=label.replace(" ", "_"), id=name, start=start, end=end
        )
        if i % 50:
            touch(tmp_path / place)
    return tmp_path, rows


@pytest.mark.parametrize(
    "lie",
    [
        "videos/{split}/{label}/{id}_{start:06d}_{end:06d}.mp4",
        "{split}/{under}/{id}_{start:06d}_{end:06d}.mkv",
        "{label}/{id}.webm",
        "videos/{id}_{start:06d}_{end:06d}.mp4",
    ],
)
def test_kinetics(tmp_path, lie):
    folder, rows = kinetics(tmp_path, lie)
    classes = kinetics_classes()
    data = read_dataset(folder)
    assert data.classes == classes
    assert data.missing == len(rows[::50]) == 12
    assert data.val is not None
    assert len(data.train) + len(data.val) + data.missing == 600
    for record in data.train + data.val:
        split, number = record.name[1], int(record.name.split("_")[1])
        assert record.labels == (number,)
        assert record.path.name.startswith(record.name[:11])
        assert record in (data.train if split == "t" else data.val)
    # the test table is known, and its video is neither missing nor used
    touch(folder / "test/x_000001_000011.mp4")
    assert [path.name for path in read_dataset(folder).test] == ["x_000001_000011.mp4"]
    # one table alone
    alone = read_dataset(folder / "kinetics_validate.csv", classes=classes)
    assert (alone.val, alone.train) == (None, data.val)
    both = read_dataset(folder / "kinetics_train.csv", val=folder / "kinetics_validate.csv")
    assert (both.train, both.val, both.classes) == (data.train, data.val, classes)


def test_kinetics_one_video_in_two_splits(tmp_path):
    header = "label,youtube_id,time_start,time_end,split\n"
    write(tmp_path / "all.csv", header + "a b,x,1,2,train\na b,x,1,2,val\nc,y,1.0,2.0,train\n")
    touch(*(tmp_path / f"{part}/a_b/x_000001_000002.mp4" for part in ("train", "validate")))
    touch(tmp_path / "train/c/y_000001_000002.mp4")
    data = read_dataset(tmp_path)
    assert [len(data.train), len(data.val or [])] == [2, 1]
    assert short(data.val, tmp_path) == [("validate/a_b/x_000001_000002.mp4", (0,))]
    assert short(read_dataset(tmp_path / "all.csv").train, tmp_path) == short(data.train, tmp_path)
    write(tmp_path / "all.csv", header + "a,x,one,2,train\n")
    with pytest.raises(ValueError, match=r"all\.csv:2: time_start and time_end"):
        read_dataset(tmp_path)


def test_kinetics_without_videos_hints_at_root(tmp_path):
    table = "label,youtube_id,time_start,time_end,split\na,x,1,2,train\n"
    write(tmp_path / "lists/train.csv", table)
    with pytest.raises(ValueError, match=r"none of its 1 listed videos.*train\.csv:2.*with root"):
        read_dataset(tmp_path / "lists")
    touch(tmp_path / "v/x_000001_000002.mp4")
    assert len(read_dataset(tmp_path / "lists", root=tmp_path / "v").train) == 1


@pytest.mark.parametrize(
    ("train", "val", "line"),
    [
        ("train.txt", "val.txt", "{} {}"),
        ("trainlist.txt", "vallist.txt", "{} {}"),
        ("train.csv", "val.csv", "{} {}"),
        ("train.csv", "val.csv", "{},{}"),
    ],
)
def test_lists(tmp_path, train, val, line):
    write(tmp_path / train, "\n".join(line.format(f"v/{i} x.mp4", i % 3) for i in range(6)))
    write(tmp_path / val, line.format("v/7.avi", 3))
    touch(*(tmp_path / f"v/{i} x.mp4" for i in range(5)), tmp_path / "v/7.mp4")
    data = read_dataset(tmp_path)
    assert short(data.train, tmp_path) == [(f"v/{i} x.mp4", (i % 3,)) for i in range(5)]
    assert short(data.val, tmp_path) == [("v/7.mp4", (3,))]  # listed as .avi: re-encoded since
    assert (data.classes, data.missing, data.absent) == (list("0123"), 1, ("v/5 x.mp4",))
    write(tmp_path / "classes.txt", "a\nb\nc\nd\n")
    assert read_dataset(tmp_path).classes == list("abcd")
    assert read_dataset(tmp_path, classes=list("wxyz")).classes == list("wxyz")
    alone = read_dataset(tmp_path / train, val=tmp_path / val)
    assert (alone.train, alone.val, alone.classes) == (data.train, data.val, data.classes)
    write(tmp_path / "classes.txt", "a\nb\n")
    with pytest.raises(ValueError, match=f"{train}:3: label 2 is beyond the 2 classes"):
        read_dataset(tmp_path)


def test_charades(tmp_path):
    for part, rows in (("train", "A,,c000 1 2;c156 0 1\nB,,\n"), ("test", "C,,c003 1 2\n")):
        write(tmp_path / f"Charades/Charades_v1_{part}.csv", f"id,script,actions\n{rows}")
    touch(*(tmp_path / f"Charades_v1_480/{name}.mp4" for name in "AC"))
    data = read_dataset(tmp_path)
    assert short(data.train, tmp_path) == [("Charades_v1_480/A.mp4", (0, 156))]
    assert short(data.val, tmp_path) == [("Charades_v1_480/C.mp4", (3,))]
    assert (data.multi_label, data.missing, len(data.classes)) == (True, 1, 157)
    index = "\n".join(f"c{i:03d} Doing thing {i}" for i in range(157))
    write(tmp_path / "Charades/Charades_v1_classes.txt", index)
    assert read_dataset(tmp_path).classes[156] == "Doing thing 156"
    # a table alone
    for part, rows in (("train", "A,,c050 1 2;c003 0 1\n"), ("val", "C,,c001 1 2\n")):
        write(tmp_path / f"alone_{part}.csv", f"id,script,actions\n{rows}")
    alone = read_dataset(
        tmp_path / "alone_train.csv",
        val=tmp_path / "alone_val.csv",
        root=tmp_path / "Charades_v1_480",
    )
    assert [r.labels for r in (*alone.train, *(alone.val or []))] == [(3, 50), (1,)]
    assert (alone.multi_label, len(alone.classes)) == (True, 51)


@pytest.mark.parametrize("under", ["UCF-101/", ""])
def test_ucf101(tmp_path, names, under):
    made_up = ["AClass", "Archery", *(f"NameOfClass{i:03}" for i in range(99))]
    classes = names("ucf101_label_map.txt", made_up)
    lists = tmp_path / "ucfTrainTestlist"
    write(lists / "classInd.txt", "".join(f"{i} {name}\n" for i, name in enumerate(classes, 1)))
    videos = [f"{name}/v_{name}_g{g:02d}_c01.avi" for name in classes for g in (1, 9)]
    touch(*(tmp_path / f"{under}{video}" for video in videos))
    train = [f"{video} {i // 2 + 1}\n" for i, video in enumerate(videos)][1::2]
    random.Random(0).shuffle(train)
    for split in (1, 2):
        write(lists / f"trainlist{split:02d}.txt", "".join(train[split - 1 :]))
        write(lists / f"testlist{split:02d}.txt", "\n".join(videos[::2]))
    data = read_dataset(tmp_path)
    assert data.classes == classes
    assert [len(data.train), len(data.val or []), data.missing] == [101, 101, 0]
    for record in [*data.train, *(data.val or [])]:
        assert record.path == tmp_path / under / record.name
        assert classes[record.labels[0]] == record.path.parent.name
    assert len(read_dataset(tmp_path, split=2).train) == 100
    with pytest.raises(ValueError, match="no split 3"):
        read_dataset(tmp_path, split=3)
    write(lists / "trainlist01.txt", "Archery/v_Archery_g01_c01.avi 1\n")
    with pytest.raises(ValueError, match=r"trainlist01\.txt:1: label 1 is not that of 'Archery'"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("lists", ["testTrainMulti_7030_splits", "splits", ""])
def test_hmdb51(tmp_path, names, lists):
    made_up = ["chew", *(f"name_of_{i:02}" for i in range(50))]
    classes = names("hmdb51_label_map.txt", made_up)
    for name in classes:
        use = {f"x_{name}_f_{k}#1.avi": k for k in range(3)}
        write(
            tmp_path / lists / f"{name}_test_split2.txt",
            "".join(f"{video} {k} \n" for video, k in use.items()),
        )
        touch(*(tmp_path / "hmdb51_org" / name / video for video in use))
    data = read_dataset(tmp_path, split=2)
    assert data.classes == classes
    assert {r.path.stem[-3] for r in data.train} == {"1"}
    assert {r.path.stem[-3] for r in data.val or []} == {"2"}
    assert [classes[r.labels[0]] for r in data.train] == [r.path.parent.name for r in data.train]
    with pytest.raises(ValueError, match="no split 1"):
        read_dataset(tmp_path)
    write(tmp_path / lists / "chew_test_split2.txt", "a.avi 1\nb.avi 3\n")
    with pytest.raises(ValueError, match=r"chew_test_split2\.txt:2: expected"):
        read_dataset(tmp_path, split=2)


@pytest.mark.parametrize("prefix", ["something-something-v2-", "labels/", ""])
def test_something_something(tmp_path, names, prefix):
    made_up = [f"Moving something {i:03} of something" for i in range(174)]
    classes = names("sthv2_label_map.txt", made_up)
    write(
        tmp_path / f"{prefix}labels.json",
        json.dumps({name: str(i) for i, name in enumerate(classes)}),
    )
    templates = [name.replace("something", "[something]") for name in classes]
    entries = [{"id": str(i), "label": "x", "template": t} for i, t in enumerate(templates)]
    write(tmp_path / f"{prefix}train.json", json.dumps(entries[::-1]))
    write(tmp_path / f"{prefix}validation.json", json.dumps([{**entries[5], "id": "900"}]))
    touch(*(tmp_path / f"20bn-something-something-v2/{i}.webm" for i in (*range(1, 174), 900)))
    data = read_dataset(tmp_path)
    assert data.classes == classes
    assert (data.mirrored, data.missing) == (False, 1)
    assert [(r.name, r.labels) for r in data.train] == [(str(i), (i,)) for i in range(173, 0, -1)]
    assert short(data.val, tmp_path) == [("20bn-something-something-v2/900.webm", (5,))]
    write(tmp_path / f"{prefix}train.json", '[{"id": "1"}]')
    with pytest.raises(ValueError, match=r"train\.json: entry 1: expected id and template"):
        read_dataset(tmp_path)


def test_a_folder_of_classes(tmp_path):
    touch(tmp_path / "v/b/1.mp4", tmp_path / "v/a/2.mp4", tmp_path / "w/a/3.mp4")
    data = read_dataset(tmp_path / "v")
    assert (data.classes, data.val) == (["a", "b"], None)
    touch(tmp_path / "w/b/4.mp4")
    both = read_dataset(tmp_path / "v", val=tmp_path / "w")
    assert short(both.val, tmp_path) == [("w/a/3.mp4", (0,)), ("w/b/4.mp4", (1,))]
    write(tmp_path / "val_list.txt", "v/b/1.mp4 1\n")
    assert short(read_dataset(tmp_path / "v", val=tmp_path / "val_list.txt").val, tmp_path) == [
        ("v/b/1.mp4", (1,))
    ]
    with pytest.raises(ValueError, match="its videos are in it: leave out root"):
        read_dataset(tmp_path / "v", root=tmp_path)


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="no videos at"):
        read_dataset(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no videos found"):
        read_dataset(tmp_path)
    touch(tmp_path / "videos/a.mp4")
    write(tmp_path / "digit_train.txt", "videos/a.mp4 0\n")  # a list with a name of its own
    with pytest.raises(ValueError, match="one folder of videos, 'videos'"):
        read_dataset(tmp_path)


def test_links_in_a_circle(tmp_path):
    write(tmp_path / "train.csv", "label,youtube_id,time_start,time_end\na,x,1,2\n")
    touch(tmp_path / "videos/x.mp4")
    (tmp_path / "videos/again").symlink_to(tmp_path)
    assert len(read_dataset(tmp_path).train) == 1


def test_a_hidden_folder_is_named_and_not_trained_on(tmp_path):
    names = ("1.mp4", "2.mp4", ".ipynb_checkpoints/2-checkpoint.mp4")
    touch(*(tmp_path / "bee" / name for name in names))
    data = read_dataset(tmp_path)
    assert [r.name for r in data.train] == ["bee/1.mp4", "bee/2.mp4"]
    assert data.notes == ("1 hidden file or folder is left out: bee/.ipynb_checkpoints",)


def test_what_a_folder_of_classes_leaves_out(tmp_path):
    touch(tmp_path / "train/a/1.mp4", tmp_path / "train/a/1.srt", tmp_path / "train/loose.mts")
    touch(tmp_path / "train/b/.x/2.mp4", tmp_path / "val/a/3.3gp", tmp_path / "val/a/x.wav")
    (tmp_path / "train/c").mkdir()
    data = read_dataset(tmp_path)
    assert data.classes == ["a"]
    assert data.notes == (
        "train: 1 file is no video: a/1.srt",
        "train: 1 hidden file or folder is left out: b/.x",
        "train: 1 video outside of class folders is left out: loose.mts",
        "train: 2 class folders have no video, and are no classes: b, c",
        "val: 1 file is no video: a/x.wav",
    )
    data.check_classes()


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        (["fight", "walk"], ["fight", "walk"], None),
        (["air_drumming", "walk"], ["air drumming", "Walk"], None),
        (["fight", "Fight"], ["fight"], r"1 class of train has no .* val: Fight; val has 'fight'"),
        (["fight", "figth"], ["fight"], r"1 class of train has no .* val: figth; val has 'fight'"),
        (["a", "b", "c"], ["b"], r"2 classes of train have no video in val: a, c; rename"),
    ],
)
def test_classes_of_one_split_alone(tmp_path, train, val, said, apart):
    for part, names in (("train", train), ("val", val)):
        touch(*(tmp_path / part / name / "1.mp4" for name in names))
    if apart:
        data = read_dataset(tmp_path / "train", val=tmp_path / "val")
    else:
        data = read_dataset(tmp_path)
    if said is None:
        data.check_classes()
    else:
        with pytest.raises(ValueError, match=said):
            data.check_classes()


def test_a_class_of_val_alone_is_refused_with_the_nearest(tmp_path):
    touch(*(tmp_path / name / "1.mp4" for name in ("train/fight", "train/walk", "val/figth")))
    with pytest.raises(ValueError, match=r"class 'figth' is none .*; did you mean 'fight'\?"):
        read_dataset(tmp_path)


def test_classes_that_differ_in_case_alone_are_told(tmp_path):
    touch(tmp_path / "Fight/1.mp4", tmp_path / "fight/2.mp4", tmp_path / "walk/3.mp4")
    (note,) = read_dataset(tmp_path).notes
    assert note.startswith("'Fight' and 'fight' are 2 classes whose names differ only in case")


def test_labels_of_lists(tmp_path):
    touch(*(tmp_path / f"{i}.mp4" for i in range(1, 5)))
    train = write(tmp_path / "train.txt", "1.mp4 1\n2.mp4 2\n3.mp4 3\n")
    (hint, empty) = read_dataset(train).notes
    assert hint.startswith("labels start at 1, and should start at 0: they count as 4 classes")
    assert empty == "1 of 4 classes has no video in training: 0"
    with pytest.raises(ValueError, match=r"label 3 is beyond the 3 classes.*subtract 1 from each"):
        read_dataset(train, classes=["a", "b", "c"])
    # a rare label that validation lacks is told, one that training lacks refused
    write(tmp_path / "train.txt", "1.mp4 0\n2.mp4 1\n3.mp4 2\n")
    write(tmp_path / "val.txt", "4.mp4 0\n")
    data = read_dataset(tmp_path)
    assert data.notes == ("2 classes of train have no video in val: 1, 2",)
    data.check_classes()
    write(tmp_path / "val.txt", "4.mp4 3\n")
    with pytest.raises(ValueError, match="1 class of val has no video in train: 3; add videos"):
        read_dataset(tmp_path).check_classes()


@pytest.mark.parametrize("prefix", ["jester-v1-", "something-something-v1-"])
def test_jester_and_something_something_v1(tmp_path, prefix):
    write(tmp_path / f"labels/{prefix}labels.csv", "Swiping Left\nSwiping Right\nNo gesture\n")
    write(
        tmp_path / f"labels/{prefix}train.csv",
        "34870;Swiping Right\n56557;No gesture\n9;Swiping Left\n",
    )
    write(tmp_path / f"labels/{prefix}validation.csv", "9223;Swiping Left\n")
    for name in ("34870", "56557", "9223"):
        touch(*(tmp_path / f"20bn/{name}/{i:05d}.jpg" for i in range(1, 4)))
    data = read_dataset(tmp_path)
    assert data.classes == ["Swiping Left", "Swiping Right", "No gesture"]
    assert short(data.train, tmp_path) == [("20bn/34870", (1,)), ("20bn/56557", (2,))]
    assert short(data.val, tmp_path) == [("20bn/9223", (0,))]
    assert (data.mirrored, data.absent) == (False, ("9",))
    write(tmp_path / f"labels/{prefix}train.csv", "34870;Swiping Up\n")
    with pytest.raises(ValueError, match=r"train\.csv:1: class 'Swiping Up' is none of the 3"):
        read_dataset(tmp_path)


def test_charades_frames(tmp_path):
    # Charades_v1_rgb: a folder a video, named as it
    write(tmp_path / "Charades_v1_train.csv", "id,actions\n46GP8,c001 0 1\n")
    touch(*(tmp_path / f"Charades_v1_rgb/46GP8/46GP8-{i:06d}.jpg" for i in range(1, 4)))
    assert short(read_dataset(tmp_path).train, tmp_path) == [("Charades_v1_rgb/46GP8", (1,))]
    alone = read_dataset(tmp_path / "Charades_v1_train.csv", root=tmp_path / "Charades_v1_rgb")
    assert short(alone.train, tmp_path) == [("Charades_v1_rgb/46GP8", (1,))]


def test_splits_taken_for_classes_are_told(tmp_path):
    touch(*(tmp_path / part / name / "1.mp4" for part in ("train", "test") for name in "ab"))
    data = read_dataset(tmp_path)
    assert data.classes == ["test", "train"]
    with pytest.raises(ValueError, match="2 classes have the names of a split: test, train; name"):
        data.check_classes()
    touch(tmp_path / "other" / "1.mp4")
    (note,) = read_dataset(tmp_path).notes
    assert note.startswith("2 classes have the names of a split: test, train; name two folders")
    read_dataset(tmp_path).check_classes()
