from __future__ import annotations

import csv
from pathlib import Path

import pytest

from nonlocalnet.data.formats.lists import (
    VideoRecord,
    read_charades,
    read_folder,
    read_list,
    read_videos,
)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_folder(tmp_path):
    b = touch(tmp_path / "b" / "deep" / "x.MP4")
    a2, a1 = touch(tmp_path / "a" / "2.avi"), touch(tmp_path / "a" / "1.webm")
    touch(tmp_path / "a" / "notes.txt")
    touch(tmp_path / "a" / ".half.mp4")
    touch(tmp_path / "loose.mp4")
    (tmp_path / "aa no videos yet").mkdir()
    (tmp_path / ".hidden").mkdir()
    with pytest.warns(UserWarning, match=r"no video|left out") as told:
        records, classes = read_folder(tmp_path)
    assert [str(warning.message).removeprefix(f"{tmp_path}: ") for warning in told] == [
        "1 file is no video: a/notes.txt",
        "2 hidden files or folders are left out: .hidden, a/.half.mp4",
        "1 video lies in no class folder, and is left out: loose.mp4",
        "1 class folder has no video, and is no class: aa no videos yet",
    ]
    assert classes == ["a", "b"]  # a folder without videos is no class
    assert records == [
        VideoRecord(a1, (0,), "a/1.webm"),
        VideoRecord(a2, (0,), "a/2.avi"),
        VideoRecord(b, (1,), "b/deep/x.MP4"),
    ]
    with pytest.warns(UserWarning, match=r"no video|left out"):
        assert read_videos(tmp_path) == (records, classes)


def test_folder_without_videos(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="no videos found"):
        read_folder(tmp_path)


def test_list(tmp_path):
    file = tmp_path / "train.txt"
    file.write_text("videos/a b.mp4 3\n\n/abs/c.mp4\t0\n  d.avi   2,0,2  \n")
    records, classes = read_list(file)
    assert classes == ["0", "1", "2", "3"]
    assert records == [
        VideoRecord(tmp_path / "videos/a b.mp4", (3,), "videos/a b.mp4"),
        VideoRecord(Path("/abs/c.mp4"), (0,), "/abs/c.mp4"),
        VideoRecord(tmp_path / "d.avi", (0, 2), "d.avi"),
    ]
    elsewhere, _ = read_list(file, root=tmp_path / "r")
    assert elsewhere[0].path == tmp_path / "r/videos/a b.mp4"
    assert elsewhere[1].path == Path("/abs/c.mp4")
    assert read_list(file, classes=list("wxyz"))[1] == ["w", "x", "y", "z"]
    assert read_videos(file) == (records, classes)
    assert read_videos(file, root=tmp_path / "r")[0] == elsewhere


@pytest.mark.parametrize(
    "line", ["a.mp4", "a.mp4 x", "a.mp4 -1", "a.mp4 1.5", "3", "a.mp4 1,", "a.mp4 1, 2,", "a.mp4 ²"]
)
def test_a_bad_line_is_named(tmp_path, line):
    file = tmp_path / "train.txt"
    file.write_text(f"ok.mp4 1\n{line}\n")
    with pytest.raises(ValueError, match=r"train\.txt:2: expected") as caught:
        read_list(file)
    assert repr(line) in str(caught.value)


def test_a_label_beyond_the_classes(tmp_path):
    file = tmp_path / "train.txt"
    file.write_text("ok.mp4 1\nbad.mp4 2\n")
    with pytest.raises(ValueError, match=r"train\.txt:2: label 2 is beyond the 2 classes, 0 to 1"):
        read_list(file, classes=["a", "b"])


def test_an_empty_list(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="empty"):
        read_list(tmp_path / "a.txt")
    (tmp_path / "a.csv").write_text("id,actions\n")
    with pytest.raises(ValueError, match="empty"):
        read_charades(tmp_path / "a.csv")


def test_names_that_are_no_utf8_and_a_byte_order_mark(tmp_path):
    file = tmp_path / "train.txt"
    file.write_bytes(b"\xef\xbb\xbfcaf\xe9.mp4 1\n")
    (record,), _ = read_list(file)
    assert bytes(record.path).endswith(b"/caf\xe9.mp4")


def test_charades(tmp_path):
    file = tmp_path / "Charades_v1_train.csv"
    with file.open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["id", "subject", "scene", "script", "actions", "length"])
        table.writerow(["46GP8", "HR43", "Kitchen", "A person, cooking; twice.", "", "24.83"])
        actions = "c092 11.90 21.20;c147 0.00 12.60;c092 0.10 1.00"
        table.writerow(["N11GT", "0KZ7", "Stairs", "Line one\nline two", actions, "18.33"])
    found = touch(tmp_path / "N11GT.mkv")
    records, classes = read_charades(file)
    assert records == [
        VideoRecord(tmp_path / "46GP8.mp4", (), "46GP8"),
        VideoRecord(found, (92, 147), "N11GT"),
    ]
    assert (len(classes), classes[0], classes[-1]) == (148, "c000", "c147")
    assert read_videos(file) == (records, classes)
    assert read_charades(file, tmp_path / "v")[0][1].path == tmp_path / "v/N11GT.mp4"
    assert len(read_charades(file, classes=[str(i) for i in range(157)])[1]) == 157


@pytest.mark.parametrize("actions", ["092 1 2", "c 1 2", "cx 1 2", "c1 1 2;d2 1 2"])
def test_a_bad_action_is_named(tmp_path, actions):
    file = tmp_path / "a.csv"
    file.write_text(f"id,actions\nA,c001 0 1\nB,{actions}\n")
    with pytest.raises(ValueError, match=r"a\.csv:3: expected actions") as caught:
        read_charades(file)
    assert repr(actions) in str(caught.value)


def test_charades_refuses(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("id,labels\nA,c001 0 1\n")
    with pytest.raises(ValueError, match=r"a\.csv:1: .*columns id and actions, got id, labels"):
        read_charades(file)
    file.write_text("id,length,actions\nA,3\n")
    with pytest.raises(ValueError, match=r"a\.csv:2: id or actions is missing"):
        read_charades(file)
    file.write_text("id,actions\nA,c003 0 1\n")
    with pytest.raises(ValueError, match=r"a\.csv:2: label 3 is beyond"):
        read_charades(file, classes=["x"])


def test_read_videos_refuses(tmp_path):
    touch(tmp_path / "a" / "1.mp4")
    with pytest.raises(ValueError, match="do not apply"):
        read_videos(tmp_path, root=tmp_path)
    with pytest.raises(FileNotFoundError):
        read_videos(tmp_path / "nothing.txt")


def test_grid(shared):
    grid = shared / "data/grid"
    records, classes = read_videos(grid / "digit_train.txt")
    assert (len(records), len(classes)) == (701, 10)
    assert all(r.path.is_file() for r in records[::50])
    assert (records[0].name, records[0].labels) == ("videos/bbaf3s.mp4", (7,))
    records, classes = read_videos(grid / "charades_style_train.csv", root=grid / "videos")
    assert (len(records), len(classes)) == (701, 51)
    assert records[0].labels == (0, 4, 8, 17, 44, 50)
    assert all(r.path.is_file() for r in records[::50])
