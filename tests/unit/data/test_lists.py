"""One list, table or folder of classes: what is read of it, and what is refused."""

from __future__ import annotations

import csv
import os
import threading
from pathlib import Path

import pytest

from nonlocalnet.data.datasets import VideoRecord, read_dataset
from nonlocalnet.data.formats import read_annotations
from nonlocalnet.data.formats.base import Annotations, Source


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def read(path: Path, **options) -> Annotations:
    return read_annotations(Source(path, **options))


def test_folder(tmp_path):
    b = touch(tmp_path / "b" / "deep" / "x.MP4")
    a2, a1 = touch(tmp_path / "a" / "2.avi"), touch(tmp_path / "a" / "1.webm")
    touch(tmp_path / "a" / "notes.txt")
    touch(tmp_path / "a" / ".half.mp4")
    touch(tmp_path / "loose.mp4")
    (tmp_path / "aa no videos yet").mkdir()
    (tmp_path / ".hidden").mkdir()
    data = read_dataset(tmp_path)
    assert data.notes == (
        "1 file is no video: a/notes.txt",
        "2 hidden files or folders are left out: .hidden, a/.half.mp4",
        "1 video outside of class folders is left out: loose.mp4",
        "1 class folder has no video, and is no class: aa no videos yet",
    )
    assert data.classes == ["a", "b"]  # a folder without videos is no class
    assert data.train == [
        VideoRecord(a1, (0,), "a/1.webm"),
        VideoRecord(a2, (0,), "a/2.avi"),
        VideoRecord(b, (1,), "b/deep/x.MP4"),
    ]


def test_list(tmp_path):
    a, c, d = (touch(tmp_path / name) for name in ("videos/a b.mp4", "c/c.mp4", "d.avi"))
    file = tmp_path / "train.txt"
    file.write_text(f"videos/a b.mp4 3\n\n{c}\t0\n  d.avi   2,0,2  \n")
    data = read_dataset(file)
    assert data.classes == ["0", "1", "2", "3"]
    assert data.train == [
        VideoRecord(a, (3,), "videos/a b.mp4"),
        VideoRecord(c, (0,), str(c)),
        VideoRecord(d, (0, 2), "d.avi"),
    ]
    elsewhere = read_dataset(file, root=tmp_path / "r")
    assert elsewhere.train == data.train[1:2]
    assert elsewhere.absent == ("videos/a b.mp4", "d.avi")
    assert read_dataset(file, classes=list("wxyz")).classes == ["w", "x", "y", "z"]


@pytest.mark.parametrize(
    "line", ["a.mp4", "a.mp4 x", "a.mp4 -1", "a.mp4 1.5", "3", "a.mp4 1,", "a.mp4 1, 2,", "a.mp4 ²"]
)
def test_a_bad_line_is_named(tmp_path, line):
    file = tmp_path / "train.txt"
    file.write_text(f"ok.mp4 1\n{line}\n")
    with pytest.raises(ValueError, match=r"train\.txt:2: expected") as caught:
        read(file)
    assert repr(line) in str(caught.value)


def test_a_label_beyond_the_classes(tmp_path):
    file = tmp_path / "train.txt"
    file.write_text("ok.mp4 1\nbad.mp4 2\n")
    with pytest.raises(ValueError, match=r"train\.txt:2: label 2 is beyond the 2 classes, 0 to 1"):
        read_dataset(file, classes=["a", "b"])


def test_a_column_that_is_no_label_is_refused(tmp_path):
    # a class for each number up to it would need all memory
    for number in ("1764247752", "1" + "0" * 20, "1" * 5000):
        (tmp_path / "train.txt").write_text(f"ok.mp4 1\nbad.mp4 {number}\n")
        with pytest.raises(ValueError, match=r"train\.txt:2: ") as caught:
            read_dataset(tmp_path / "train.txt")
        assert len(str(caught.value)) < 400


def test_an_empty_list(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n")
    (tmp_path / "a.csv").write_text("id,actions\n")
    for name in ("a.txt", "a.csv"):
        with pytest.raises(ValueError, match="empty"):
            read(tmp_path / name)


@pytest.mark.parametrize("text", ["a.mp4 2\n", "path,label\na.mp4,2\n"])
def test_a_list_from_a_pipe(tmp_path, text):
    # as the shell's <(...) gives it
    a = touch(tmp_path / "a.mp4")
    os.mkfifo(tmp_path / "list")
    writer = threading.Thread(target=(tmp_path / "list").write_text, args=(text,), daemon=True)
    writer.start()
    assert read_dataset(tmp_path / "list").train == [VideoRecord(a, (2,), "a.mp4")]
    writer.join()


def test_names_that_are_no_utf8_and_a_byte_order_mark(tmp_path):
    file = tmp_path / "train.txt"
    file.write_bytes(b"\xef\xbb\xbfcaf\xe9.mp4 1\n")
    (entry,) = read(file).train
    assert entry.name.encode(errors="surrogateescape") == b"caf\xe9.mp4"


def test_charades(tmp_path):
    file = tmp_path / "Charades_v1_train.csv"
    with file.open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["id", "subject", "scene", "script", "actions", "length"])
        table.writerow(["46GP8", "HR43", "Kitchen", "A person, cooking; twice.", "", "24.83"])
        actions = "c092 11.90 21.20;c147 0.00 12.60;c092 0.10 1.00"
        table.writerow(["N11GT", "0KZ7", "Stairs", "Line one\nline two", actions, "18.33"])
        table.writerow(["GONE0", "0KZ7", "Stairs", "", "c001 1.00 2.00", "18.33"])
    videos = touch(tmp_path / "46GP8.mp4"), touch(tmp_path / "N11GT.mkv")
    data = read_dataset(file)
    assert data.train == [
        VideoRecord(videos[0], (), "46GP8"),
        VideoRecord(videos[1], (92, 147), "N11GT"),
    ]
    assert data.absent == ("GONE0",)
    assert (len(data.classes), data.classes[0], data.classes[-1]) == (148, "c000", "c147")
    assert len(read_dataset(file, classes=[str(i) for i in range(157)]).classes) == 157


@pytest.mark.parametrize("actions", ["092 1 2", "c 1 2", "cx 1 2", "c1 1 2;d2 1 2"])
def test_a_bad_action_is_named(tmp_path, actions):
    file = tmp_path / "a.csv"
    file.write_text(f"id,actions\nA,c001 0 1\nB,{actions}\n")
    with pytest.raises(ValueError, match=r"a\.csv:3: expected actions") as caught:
        read(file)
    assert repr(actions) in str(caught.value)


def test_charades_refuses(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("id,labels\nA,c001 0 1\n")
    with pytest.raises(ValueError, match=r"a\.csv:1: .*columns id and actions, got id, labels"):
        read(file)
    file.write_text("id,length,actions\nA,3\n")
    with pytest.raises(ValueError, match=r"a\.csv:2: id or actions is missing"):
        read(file)
    file.write_text("id,actions\nA,c003 0 1\n")
    with pytest.raises(ValueError, match=r"a\.csv:2: label 3 is beyond"):
        read_dataset(file, classes=["x"])


def test_lists_of_one_label_and_of_many_over_the_same_videos(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in ("bbaf3s", "bbaf4p"):
        (tmp_path / f"videos/{name}.mp4").touch()
    (tmp_path / "digits.txt").write_text("videos/bbaf3s.mp4 7\nvideos/bbaf4p.mp4 9\n")
    data = read_dataset(tmp_path / "digits.txt")
    assert (len(data.train), len(data.classes)) == (2, 10)
    assert (data.train[0].name, data.train[0].labels) == ("videos/bbaf3s.mp4", (7,))
    rows = "bbaf3s,3.00,c000 0.7 0.9;c004 0.9 1.1;c050 1.4 1.9\nbbaf4p,3.00,c008 0.7 0.9\n"
    (tmp_path / "words.csv").write_text(f"id,length,actions\n{rows}")
    data = read_dataset(tmp_path / "words.csv", root=tmp_path / "videos")
    assert (len(data.train), len(data.classes)) == (2, 51)
    assert data.train[0].labels == (0, 4, 50)
