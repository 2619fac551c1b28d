import csv
import json

import pytest

from nonlocalnet.evaluation.prediction_file import PredictionFile, Row, check_suffix

ABOUT = {"sha256": "ab", "num_clips": 10}
ROWS = [
    Row("a/b, c.mp4", [("bee", 0.75), ("cat, or not", 0.25)]),
    Row('two\nlines".mp4', error="no such file"),
    Row("one.mp4", [("ape", 1.0)]),  # a network of one class
    Row("not utf-8 \udcff.mp4", [("bee", 0.5), ("ape", 0.5)]),
]
ERRORS = {row.video: row.error for row in ROWS}
SUFFIXES = (".csv", ".jsonl")


def opened(path, about=ABOUT, top=2):
    file = PredictionFile(path, about, top)
    file.check()
    file.collect()
    return file


def write(file, rows, process=0):
    with file.append(process) as append:
        for row in rows:
            append(row)


def test_rows_of_a_table(tmp_path):
    write(opened(tmp_path / "p.csv"), ROWS[:2])
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["video", "class_1", "probability_1", "class_2", "probability_2", "error"],
        ["a/b, c.mp4", "bee", "0.750000", "cat, or not", "0.250000", ""],
        ['two\nlines".mp4', "", "", "", "", "no such file"],
    ]


def test_json_lines(tmp_path):
    write(opened(tmp_path / "p.jsonl"), ROWS[:2])
    assert list(map(json.loads, (tmp_path / "p.jsonl").read_text().splitlines())) == [
        {"video": "a/b, c.mp4", "classes": {"bee": 0.75, "cat, or not": 0.25}},
        {"video": 'two\nlines".mp4', "error": "no such file"},
    ]


def test_a_row_is_in_the_file_before_the_next_is_computed(tmp_path):
    file = opened(tmp_path / "p.csv")
    with file.append() as append:
        append(ROWS[0])
        assert (tmp_path / "p.csv").read_text().count("\n") == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_was_cut_off_loses_the_last_row_only(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    write(opened(path), ROWS)
    whole = path.read_bytes()
    ends = []  # of the rows, in bytes
    for count in range(1, len(ROWS) + 1):
        other = tmp_path / f"{count}{suffix}"
        write(opened(other), ROWS[:count])
        ends.append(other.stat().st_size)
    assert ends[-1] == len(whole)
    for cut in {*range(0, len(whole), 11), *ends, *(end - 1 for end in ends), *(1, 5)}:
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        file = PredictionFile(path, ABOUT, 2)
        assert file.collect() == dict(list(ERRORS.items())[:kept]), cut
        write(file, ROWS[kept:])
        assert path.read_bytes() == whole


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_of_other_processes_are_taken_over_once(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    file = opened(path)
    write(file, ROWS[:1])
    write(file, ROWS[1:3], process=1)
    write(file, [ROWS[0], ROWS[3]], process=12)  # the first stands twice, if a process died late
    assert len(list(tmp_path.iterdir())) == 4
    assert file.collect() == ERRORS
    assert {p.name for p in tmp_path.iterdir()} == {path.name, f"{path.name}.json"}
    write(opened(tmp_path / f"q{suffix}"), ROWS)
    assert path.read_bytes() == (tmp_path / f"q{suffix}").read_bytes()


def test_a_row_of_a_part_that_was_cut_off_is_dropped(tmp_path):
    file = opened(tmp_path / "p.csv")
    write(file, ROWS[:2], process=3)
    part = tmp_path / "p.csv.part3"
    part.write_bytes(part.read_bytes()[:-4])
    assert file.collect() == {ROWS[0].video: ""}


def test_rows_of_other_weights_or_views_are_refused(tmp_path):
    path = tmp_path / "p.csv"
    write(opened(path), ROWS)
    opened(path, ABOUT | {"weights": "the same file by another name"})
    with pytest.raises(ValueError, match=r"p\.csv has rows computed with other weights: choose"):
        opened(path, ABOUT | {"sha256": "cd"})
    with pytest.raises(ValueError, match="with num_clips 10 instead of 1, top 2 instead of 3: "):
        opened(path, ABOUT | {"num_clips": 1}, top=3)
    (tmp_path / "p.csv.json").unlink()
    with pytest.raises(ValueError, match=r"p\.csv\.json, which says what it was computed with"):
        opened(path)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one of '\.csv', '\.jsonl', '\.parquet'; got '\.txt'"):
        check_suffix(tmp_path / "p.txt")


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "p.parquet"
    file = opened(path)
    write(file, ROWS)
    file.finish()
    table = parquet.read_table(path).to_pydict()
    assert table["video"] == [*list(ERRORS)[:3], r"not utf-8 \udcff.mp4"]
    assert table["class_1"] == ["bee", None, "ape", "bee"]
    assert table["probability_2"] == [0.25, None, None, 0.5]
    assert table["error"] == [None, "no such file", None, None]
    assert opened(path).collect() == ERRORS  # from the rows beside it
    (tmp_path / "p.parquet.jsonl").unlink()
    with pytest.raises(ValueError, match=r"p\.parquet\.jsonl does not: choose another"):
        opened(path)
