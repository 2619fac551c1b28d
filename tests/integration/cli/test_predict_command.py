"""`nonlocalnet predict --out`: rows of many videos, continued after any end, by many processes."""

import csv
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import nonlocalnet as nl
from launching import Command, torchrun
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import main
from nonlocalnet.data.video.reader import VideoError
from nonlocalnet.data.video.write import write_video
from nonlocalnet.evaluation import prediction

CLASSES = ["ape", "bee", "cat"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The folder videos with six videos, a broken one and a note; a network of three classes."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    (folder / "videos/more").mkdir(parents=True)
    for i in range(6):
        path = folder / "videos" / ("more" if i % 2 else "") / f"v{i}.mp4"
        write_video(path, rng.integers(0, 256, (9, 36, 48 + 4 * i, 3), dtype=np.uint8))
    (folder / "videos/broken.mp4").write_bytes(b"no video")
    (folder / "videos/notes.md").touch()
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny", num_classes=3, clip="4x2", crop=32)
    model.fc.weight.data.normal_()  # so that videos differ
    save_weights(model, folder / "w.safetensors", WeightsInfo(model.config, CLASSES, short_side=32))
    return folder


def words(work, *more):
    given = ["--weights", work / "w.safetensors", "--device", "cpu", "--workers", "0"]
    return ["predict", *map(str, [*more, *given])]


def table(path):
    with Path(path).open(newline="") as file:
        return {row["video"]: row for row in csv.DictReader(file)}


def test_a_folder_becomes_a_table(work, tmp_path, capsys):
    out = tmp_path / "new/p.csv"
    assert main(words(work, work / "videos", "--out", out, "--num-clips", "2", "--top", "2")) == 2
    said = capsys.readouterr().err
    assert "1 of 7 videos could not be read" in said
    assert "broken.mp4: not a readable video" in said
    assert "1 file is no video: notes.md" in said
    rows = table(out)
    assert len(rows) == 7
    model = nl.load(work / "w.safetensors")
    for video, row in rows.items():
        if video.endswith("broken.mp4"):
            assert row["error"].startswith("not a readable video")
            assert row["class_1"] == row["probability_2"] == ""
            continue
        (one, p), (other, q) = nl.predict(model, video, num_clips=2, top=2)
        assert (row["class_1"], row["class_2"], row["error"]) == (one, other, "")
        assert float(row["probability_1"]) == pytest.approx(p, abs=2e-6)
        assert float(row["probability_2"]) == pytest.approx(q, abs=2e-6)


def test_what_the_file_has_is_not_computed_again(work, tmp_path, monkeypatch, capsys):
    out = tmp_path / "p.jsonl"
    given = ("--out", out, "--num-clips", "1")
    assert main(words(work, work / "videos/v0.mp4", work / "videos/broken.mp4", *given)) == 2
    computed, compute = [], prediction.predict_some

    def record(model, dataset, indices, **options):
        computed.append([dataset.records[i].path.name for i in indices])
        return compute(model, dataset, indices, **options)

    monkeypatch.setattr(prediction, "predict_some", record)
    assert main(words(work, work / "videos", *given)) == 2
    assert "p.jsonl has 2 of 7 videos already" in capsys.readouterr().err
    assert main(words(work, work / "videos/v0.mp4", *given)) == 0  # the broken one is not asked for
    assert list(map(sorted, computed)) == [[f"v{i}.mp4" for i in range(1, 6)], []]
    rows = list(map(json.loads, out.read_text().splitlines()))
    assert len({row["video"] for row in rows}) == len(rows) == 7
    capsys.readouterr()
    assert main(words(work, work / "videos", "--out", out, "--num-clips", "2")) == 2
    said = capsys.readouterr().err
    assert "p.jsonl has rows computed with num_clips 1 instead of 2: choose another file" in said
    assert said.count("\n") <= 2


@pytest.mark.parametrize("processes", [2, 3, 9])
def test_every_video_counts_once_however_many_processes_share_them(
    work, tmp_path, monkeypatch, processes
):
    """The processes one after the other, the first one last, as it brings the rows together."""
    model = nl.load(work / "w.safetensors")
    videos = sorted((work / "videos").rglob("*.mp4"))
    given = {"about": {}, "top": 2, "workers": 0, "num_clips": 1, "num_crops": 1}
    one = prediction.write_predictions(model, videos, tmp_path / "one.csv", **given)
    many = tmp_path / "many.csv"
    monkeypatch.setattr(prediction, "world_size", lambda: processes)
    monkeypatch.setattr(prediction, "broadcast", lambda value: value or {})
    for number in reversed(range(processes)):
        monkeypatch.setattr(prediction, "rank", lambda number=number: number)
        if number == 0:  # what it finds at the start, in truth before the others write
            monkeypatch.setattr(
                prediction, "broadcast", lambda value: {} if len(value) < 7 else value
            )
        found = prediction.write_predictions(model, videos, many, **given)
    assert found == one
    check_equal(tmp_path / "one.csv", many)


def test_after_a_kill_the_command_gives_what_it_would_have_given(work, tmp_path):
    many = tmp_path / "several"
    many.mkdir()
    for i in range(40):
        shutil.copyfile(sorted((work / "videos").rglob("v*.mp4"))[i % 6], many / f"{i:02}.mp4")
    given = words(work, many, "--num-clips", "3")
    assert main([*given, "--out", str(tmp_path / "whole.csv")]) == 0
    out = tmp_path / "p.csv"
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        os._exit(main([*given, "--out", str(out)]))
    deadline = time.monotonic() + 100
    while not out.exists() or out.read_text().count("\n") < 4:
        assert time.monotonic() < deadline
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert 3 < out.read_text().count("\n") < 41
    assert main([*given, "--out", str(out)]) == 0
    assert out.read_text().count("\n") == 41
    check_equal(out, tmp_path / "whole.csv")


def check_equal(one, other):
    """Two tables have the same rows, in any order, to rounding."""
    one, other = table(one), table(other)
    assert one.keys() == other.keys()
    for video, row in one.items():
        for name, cell in row.items():
            if name.startswith("probability") and cell:
                assert float(cell) == pytest.approx(float(other[video][name]), abs=2e-6)
            else:
                assert cell == other[video][name]


@pytest.fixture
def many(work, tmp_path):
    """A folder of sixty videos."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(60):
        shutil.copyfile(work / "videos/v0.mp4", folder / f"{i:02}.mp4")
    return folder


def wait_until_both_write(out, process):
    part, deadline = Path(f"{out}.part1"), time.monotonic() + 200
    while not (part.exists() and part.read_text().count("\n") > 2 and len(table(out)) > 1):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_continues(work, many, out):
    assert 2 < len(table(out)) + len(table(f"{out}.part1")) < 60
    assert main(words(work, many, "--out", out)) == 0
    assert set(table(out)) == {str(path) for path in many.iterdir()}
    assert out.read_text().count("\n") == 61
    assert not Path(f"{out}.part1").exists()


@pytest.mark.slow
def test_after_the_death_of_a_process_of_torchrun_the_command_continues(work, many, tmp_path):
    out = tmp_path / "p.csv"
    process = torchrun(words(work, many, "--out", out), 2)
    wait_until_both_write(out, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (second,) = (c for c in children if b"\0RANK=1\0" in Path(f"/proc/{c}/environ").read_bytes())
    os.kill(int(second), signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "SIGKILL" in said
    check_continues(work, many, out)


@pytest.mark.slow
def test_a_process_whose_peer_died_computes_its_share_and_says_so(work, many, tmp_path):
    """Started by another program than torchrun, which would end both."""
    out = tmp_path / "p.csv"
    both = Command(words(work, many, "--out", out), processes=2)
    wait_until_both_write(out, both)
    os.kill(both.pids[1], signal.SIGKILL)
    _, said = both.communicate(timeout=200)
    assert both.returncode == 2
    assert "another process of this run died" in said
    assert f"start all of them again: {out} has the videos that were computed" in said
    assert len(table(out)) == 30
    check_continues(work, many, out)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(work, tmp_path):
    assert main(words(work, work / "videos", "--out", tmp_path / "one.csv")) == 2
    process = torchrun(words(work, work / "videos", "--out", tmp_path / "two.csv"), 2)
    _, said = process.communicate(timeout=200)
    assert said.count("1 of 7 videos could not be read") == 1
    check_equal(tmp_path / "one.csv", tmp_path / "two.csv")


def test_many_paths_in_python(work):
    model = nl.load(work / "w.safetensors")
    paths = [work / "videos/v0.mp4", str(work / "videos/broken.mp4"), work / "videos/v2.mp4"]
    found = nl.predict(model, paths, num_clips=1)
    path, first = next(found)
    assert path == paths[0]
    assert dict(first) == pytest.approx(dict(nl.predict(model, paths[0], num_clips=1)), abs=1e-6)
    (broken, error), (last, classes) = found
    assert (broken, last) == (Path(paths[1]), paths[2])
    assert isinstance(error, VideoError)
    assert "broken.mp4: not a readable video" in str(error)
    assert [name for name, _ in classes] == [n for n, _ in nl.predict(model, last, num_clips=1)]
    with pytest.raises(ValueError, match="name at least one video"):
        nl.predict(model, [])


def test_packed_data_gets_a_row_per_video(work, tmp_path, capsys):
    names = ["v0.mp4", "more/v1.mp4", "broken.mp4", "v2.mp4"]
    (work / "some.txt").write_text("".join(f"videos/{name} -\n" for name in names))
    packed = tmp_path / "packed"
    assert main(["data", "pack", str(work / "some.txt"), str(packed), "--shard-size", "20kB"]) == 0
    given = ("--num-clips", "1", "--top", "3")
    loose = [work / "videos" / name for name in names]
    assert main(words(work, *loose, *given, "--out", tmp_path / "loose.csv")) == 2
    assert main(words(work, packed, *given, "--out", tmp_path / "packed.csv")) == 2
    assert f"{packed}/broken.mp4: not a readable video" in capsys.readouterr().err
    found, expected = table(tmp_path / "packed.csv"), table(tmp_path / "loose.csv")
    assert list(found) == [f"{packed}/{name}" for name in names]
    for row, other in zip(found.values(), expected.values(), strict=True):
        assert {**row, "video": ""} == {**other, "video": ""}
    # a packed video, a list of some, and the whole of it name the same videos
    (tmp_path / "some.txt").write_text("packed/v0.mp4\npacked/v2.mp4\n")
    more = (tmp_path / "some.txt", packed / "v2.mp4", packed)
    assert main(words(work, *more, *given, "--out", tmp_path / "packed.csv")) == 2
    assert table(tmp_path / "packed.csv") == found
    model = nl.load(work / "w.safetensors")
    (_, one), _ = nl.predict(model, [packed / "v0.mp4", str(packed / "v2.mp4")], num_clips=1)
    assert one[0][0] == found[f"{packed}/v0.mp4"]["class_1"]


def test_parts_share_out_the_videos(work, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(work)  # the part of a video depends on its path as it is given
    given = ("--num-clips", "1", "--out")
    assert main(words(work, "videos", *given, tmp_path / "all.csv")) == 2
    lines = []
    for part in ("1/2", "2/2"):
        out = tmp_path / f"{part[0]}.csv"
        main(words(work, "videos", *given, out, "--part", part))
        videos = list(table(out))
        assert len(videos) < 7
        out.write_text(out.read_text()[:-9])  # as if preempted
        capsys.readouterr()
        main(words(work, "videos", *given, out, "--part", part))
        assert list(table(out)) == videos
        assert f"part {part} has {len(videos)} of 7 videos" in capsys.readouterr().err
        header, *more = out.read_text().splitlines(keepends=True)
        lines += more
    (tmp_path / "parts.csv").write_text("".join([header, *lines]))
    assert len(lines) == 7
    check_equal(tmp_path / "all.csv", tmp_path / "parts.csv")
    assert main(words(work, "videos", *given, tmp_path / "1.csv", "--part", "2/2")) == 2
    assert "computed with part 1/2 instead of 2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "part", ["0/3", "4/3", "3", "1/0", "1/3/5", "-1/3", " 1/3", "1 / 3", "٣/٤"]
)
def test_a_part_is_read_strictly(work, part, capsys):
    assert main(words(work, work / "videos", f"--part={part}")) == 2
    assert "--part must be 1/N to N/N, such as 3/16; got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--out", "p.txt"], "suffix of the file must be one of '.csv', '.jsonl', '.parquet'"),
        (["--out", "p.csv", "--json"], "give one of them"),
        (["*.avi"], "no video or folder matches"),
    ],
)
def test_errors_of_use(work, more, said, capsys):
    assert main(words(work, work / "videos/v0.mp4", *more)) == 2
    assert said in capsys.readouterr().err


def test_a_missing_pyarrow_is_named_with_its_extra(work, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(words(work, work / "videos", "--out", "p.parquet")) == 2
    assert "pip install 'nonlocalnet[parquet]'" in capsys.readouterr().err


def test_several_processes_need_a_file(work, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words(work, work / "videos")) == 2
    assert "name it with --out" in capsys.readouterr().err
