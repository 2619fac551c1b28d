"""Lists in the dialects that people write."""

from __future__ import annotations

from pathlib import Path

import pytest

from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.formats import read_annotations
from nonlocalnet.data.formats.base import Entry, Source


def read_list(path: Path) -> list[Entry]:
    return read_annotations(Source(path)).train


@pytest.mark.parametrize("name", ["list.csv", "list.txt"])
@pytest.mark.parametrize(
    "text",
    [
        "v/a b.mp4,3\nc.mp4,0\n",
        "v/a b.mp4, 3\nc.mp4, 0\n",
        "v/a b.mp4 , 3 \nc.mp4 , 0 \n",
        "v/a b.mp4;3\nc.mp4;0\n",
        "v/a b.mp4; 3\nc.mp4; 0\n",
        "v/a b.mp4\t3\nc.mp4\t0\n",
        '"v/a b.mp4","3"\n"c.mp4","0"\n',
        '"v/a b.mp4", 3\n"c.mp4", 0\n',
        "v/a b.mp4 3\nc.mp4 0\n",
        "path,label\nv/a b.mp4,3\nc.mp4,0\n",
        "Label, Video_Path, note\n3, v/a b.mp4, x\n0, c.mp4,\n",
        "id;filename;class\n7;v/a b.mp4;3\n8;c.mp4;0\n",
    ],
)
@pytest.mark.parametrize(
    "encoded",
    [
        lambda text: text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode("utf-16"),
    ],
)
def test_dialects(tmp_path, name, text, encoded):
    (tmp_path / name).write_bytes(encoded(text))
    records = read_list(tmp_path / name)
    assert [(r.name, r.label) for r in records] == [("v/a b.mp4", (3,)), ("c.mp4", (0,))]


@pytest.mark.parametrize(
    ("line", "name", "labels"),
    [
        ('a.mp4,"1,5"', "a.mp4", (1, 5)),
        ("a.mp4,1 5", "a.mp4", (1, 5)),
        ("a.mp4 1, 5", "a.mp4", (1, 5)),
        ("a b.mp4 1 5 7", "a b.mp4", (1, 5, 7)),
        ("a.mp4, -", "a.mp4", ()),
        ("smith, john, take 2.mp4, 4", "smith, john, take 2.mp4", (4,)),
        ('"smith, john.mp4", 4', "smith, john.mp4", (4,)),
        ("a\x0bb\u2028c.mp4 2", "a\x0bb\u2028c.mp4", (2,)),  # line ends for Python alone
    ],
)
def test_single_lines(tmp_path, line, name, labels):
    (tmp_path / "list.csv").write_text(line + "\n")
    (record,) = read_list(tmp_path / "list.csv")
    assert (record.name, record.label) == (name, labels)


@pytest.mark.parametrize("line", ["a.mp4,x", "a.mp4,,", ",3", "a.mp4,b.mp4,3", "a.mp4,1,2,3"])
def test_what_is_no_line_is_named(tmp_path, line):
    (tmp_path / "list.csv").write_text(f"ok.mp4,1\n{line}\n")
    with pytest.raises(ValueError, match=r"list\.csv:2: expected"):
        read_list(tmp_path / "list.csv")


@pytest.mark.parametrize("line", ["{} {} {}", "{},{},{}", "{}, {}, {}", "{};{};{}", "{}\t{}\t{}"])
def test_folders_with_their_number_of_frames(tmp_path, line):
    for name in ("v/one two", "v/3"):
        (tmp_path / name).mkdir(parents=True)
    text = "\n".join([line.format("v/one two", 29, 1), line.format("v/3", 7, 0)])
    (tmp_path / "list.txt").write_text(text)
    records = read_list(tmp_path / "list.txt")
    assert [(r.name, r.label, r.num_frames) for r in records] == [
        ("v/one two", (1,), 29),
        ("v/3", (0,), 7),
    ]


def test_a_header_names_the_frames(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "list.csv").write_text("total_frames,frame_dir,label\n29,v,1\n")
    (record,) = read_list(tmp_path / "list.csv")
    assert (record.name, record.label, record.num_frames) == ("v", (1,), 29)


def test_a_number_at_a_videos_end_is_no_number_of_frames(tmp_path):
    (tmp_path / "take 2.mp4").touch()
    (tmp_path / "list.txt").write_text("take 2 0\nother clip 1\n")
    records = read_list(tmp_path / "list.txt")
    assert [(r.name, r.num_frames) for r in records] == [("take 2", None), ("other clip", None)]


def test_tables_that_a_spreadsheet_saved(tmp_path):
    rows = ["label;youtube_id;time_start;time_end;split", '"a, b";x;1;2;train']
    (tmp_path / "all.csv").write_text("\ufeff" + "\r\n".join(rows))
    (tmp_path / "x_000001_000002.3gp").touch()
    data = read_dataset(tmp_path)
    assert (data.classes, data.train[0].path.suffix) == (["a, b"], ".3gp")
    (tmp_path / "c.csv").write_text('id;actions\nA;"c001 0 1;c003 0 1"\n')
    assert read_list(tmp_path / "c.csv")[0].label == (1, 3)


def test_paths_of_unusual_suffixes(tmp_path: Path):
    for name in ("ant/frag.mp4", "bee/a.MTS", "bee/h263.3gp", "wasp/frag.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "train.txt").write_text("bee/h263.3gp 1\nbee/a.MTS 1\nant/frag.mp4 0\n")
    data = read_dataset(tmp_path)
    assert sorted((r.name, r.labels) for r in data.train) == [
        ("ant/frag.mp4", (0,)),
        ("bee/a.MTS", (1,)),
        ("bee/h263.3gp", (1,)),
    ]


@pytest.fixture
def folders(tmp_path) -> Path:
    """Folders of 9, 7 and 5 pictures: "a", "b 2" and "c"."""
    for name, count in (("a", 9), ("b 2", 7), ("c", 5)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.jpg").touch()
    return tmp_path / "list.txt"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a 9 1 5\nb 2 7 0\nc 5 2 3 4\n", [(1, 5), (0,), (2, 3, 4)]),
        ("a\t9\t1\t5\nb 2\t7\t0\t3\nc\t5\t1\t0\n", [(1, 5), (0, 3), (0, 1)]),  # as offsets do
        ("a 9 1,5\nb 2 7 -\nc 5 0\n", [(1, 5), (), (0,)]),
        ("a 9 jump\nb 2 7 long jump\nc 5 jump\n", ["jump", "long jump", "jump"]),
    ],
)
def test_folders_with_several_labels_and_with_names(folders, text, expected):
    folders.write_text(text)
    records = read_list(folders)
    assert [r.label for r in records] == expected
    assert [(r.name, r.num_frames) for r in records] == [("a", 9), ("b 2", 7), ("c", 5)]


@pytest.mark.parametrize(
    "text", ["a 0 9 1\nc 2 3 0\n", "gone 9 5 3\nc 2 3 0\n", "a 0 9 1 2\n", "a 1 8 0\nb 2 1 6 1\n"]
)
def test_offsets_in_folders_are_refused(folders, text):
    folders.write_text(text)
    with pytest.raises(ValueError, match=r"list\.txt:[12]: .*OFFSET.*not read.*NUM_FRAMES 1,5"):
        read_list(folders)


@pytest.mark.parametrize(
    "text",
    [
        "v/a b.mp4 long jump\nc.mp4 run\n",
        "v/a b.mp4, long jump\nc.mp4, run\n",
        '"v/a b.mp4"\t"long jump"\nc.mp4\trun\n',
        "path label\nv/a b.mp4 long jump\nc.mp4 run\n",
        "name;class\nv/a b.mp4;long jump\nc.mp4;run\n",
    ],
)
def test_names_as_labels(tmp_path, text):
    for name in ("v/a b.mp4", "c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "val.txt").write_text("c.mp4 run\nv/a b.mp4 Long_Jump\n")
    data = read_dataset(tmp_path / "train.txt", val=tmp_path / "val.txt")
    assert data.classes == ["long jump", "run"]
    assert [r.labels for r in data.train + data.val] == [(0,), (1,), (1,), (0,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 jump\nb.mp4 3\n", r"list\.txt:1: expected .*class names in all lines"),
        ("a.mp4 0\nb.mp4 jump\n", r"list\.txt:2: expected"),
        ("a.mp4 run\nb.mp4 jump,run\n", r"list\.txt:2: 'jump,run' may be one class or several"),
        ("a.mp4 b.mp4\n", "expected"),
        ("a.mp4 10s\n", "expected"),
    ],
)
def test_what_is_no_name_is_refused(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_list(tmp_path / "list.txt")


def test_names_in_one_split_and_numbers_in_the_other(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "train.txt").write_text("a.mp4 run\n")
    (tmp_path / "val.txt").write_text("a.mp4 0\n")
    with pytest.raises(ValueError, match="names in one and numbers in the other"):
        read_dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("run\n")
    assert read_dataset(tmp_path).classes == ["run"]


def test_columns_that_are_not_used_are_named(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.csv").write_text("path,start,end,label\na.mp4,0,9,0\n")
    assert read_dataset(tmp_path / "list.csv").notes == ("2 columns are not used: start, end",)


def test_videos_in_no_list_are_named(tmp_path):
    for name in ("ant/1.mp4", "bee/1.mp4", "wasp/1.mp4", "wasp/2.mp4", "fly/1.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "train.txt").write_text("ant/1.mp4 0\n")
    (tmp_path / "val.txt").write_text(f"{tmp_path}/bee/1 0\n")
    (tmp_path / "test.txt").write_text("fly/1.mp4\n")
    note = "2 videos of the folder are in no list: wasp/1.mp4, wasp/2.mp4"
    assert read_dataset(tmp_path).notes == (note,)
    assert read_dataset(tmp_path / "train.txt").notes == ()  # one list is asked for
