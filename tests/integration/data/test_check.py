from __future__ import annotations

import json
import os
from pathlib import Path

import av
import pytest

from nonlocalnet.cli import main
from nonlocalnet.data import check as module
from nonlocalnet.data.check import check_dataset, check_file, write_good
from nonlocalnet.data.datasets import read_dataset


def damage(source: Path, target: Path, frame: int, keep: int = 0) -> Path:
    """Zero the coded data of one frame, but for its first bytes."""
    with av.open(str(source)) as file:
        packets = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    data = bytearray(source.read_bytes())
    position, size = packets[frame]
    data[position + keep : position + size] = bytes(size - keep)
    target.write_bytes(data)
    return target


@pytest.fixture(scope="module")
def broken(tmp_path_factory, encode, moving) -> Path:
    """A data set of lists with one of every fault."""
    root = tmp_path_factory.mktemp("broken")
    fast = {"movflags": "faststart"}
    good = encode(root / "good.mp4", moving, options={"g": "10", "bf": "0"}, container=fast)
    data = good.read_bytes()
    (root / "copy.mp4").write_bytes(data)
    (root / "cut.mp4").write_bytes(data[: len(data) * 7 // 10])
    (root / "empty.mp4").write_bytes(b"")
    damage(good, root / "wrong.mp4", 13)
    damage(good, root / "concealed.mp4", 13, keep=200)
    encode(root / "short.mp4", moving[:4])
    encode(root / "validation.mp4", moving[:30])
    (root / "leak.mp4").write_bytes((root / "validation.mp4").read_bytes())
    encode(root / "nobody's.mp4", moving[:9])
    names = ["good", "copy", "cut", "empty", "wrong", "concealed", "short", "leak", "gone"]
    (root / "train.txt").write_text("".join(f"{name}.mp4 0\n" for name in names))
    (root / "val.txt").write_text("validation.mp4 0\n")
    (root / "classes.txt").write_text("a\nb\n")
    return root


def test_every_fault_is_found(broken, tmp_path, monkeypatch, capfd):
    out, found = tmp_path / "out", tmp_path / "found.json"
    options = ["--min-frames", "8", "--workers", "2", "--out", str(out), "--json", str(found)]
    monkeypatch.setenv("COLUMNS", "300")  # long paths would break the reasons into lines
    assert main(["data", "check", str(broken), *options]) == 1
    report = json.loads(found.read_text())
    faults = {(f["kind"], Path(f["path"]).stem) for f in report["findings"]}
    assert faults == {
        ("duplicate", "copy"),
        ("damaged", "cut"),
        ("duration", "cut"),
        ("unreadable", "empty"),
        ("unreadable", "wrong"),
        ("damaged", "concealed"),
        ("short", "short"),
        ("leak", "leak"),
        ("missing", "gone"),
        ("unlisted", "nobody's"),
    }
    assert "the file is empty" in capfd.readouterr().out
    # what is good is a data set, and nothing is wrong with it
    again = read_dataset(out)
    assert [r.path for r in again.train] == [broken / "good.mp4"]
    assert [(r.path, r.labels) for r in again.val or []] == [(broken / "validation.mp4", (0,))]
    assert again.classes == ["a", "b"]
    assert main(["data", "check", str(out), "--workers", "1"]) == 0

    def never(*arguments, **options):
        assert arguments[1] == []
        return iter(())

    monkeypatch.setattr(module, "run_isolated", never)  # all is in the journal but the failure
    assert main(["data", "check", str(broken), *options]) == 1
    assert json.loads(found.read_text()) == report


def test_a_file_that_kills_or_hangs_is_reported(broken, monkeypatch):
    failure = module.Failure("its process died (SIGSEGV)")
    monkeypatch.setattr(module, "run_isolated", lambda f, items, **k: [(0, failure)])
    data = read_dataset(broken / "val.txt")
    report = check_dataset(data)
    assert [(f.kind, f.text) for f in report.findings] == [("unreadable", failure.reason)]
    assert report.good == {"train": []}


def test_real_clips_are_sound(shared):
    # Xvid's padding packets, frames without time stamps, sound: no false alarm
    for name in ("paddlevideo_example.avi", "tv_SOX5yA1l24A.mp4"):
        report = check_file(shared / "data/clips" / name)
        assert (report.error, report.damage) == ("", "")
    avi = sorted((shared / "data/clips").glob("tv_*hmdb*.avi"))[0]
    report = check_file(avi)
    assert (report.damage, report.frames, report.announced_frames) == ("", 83, 84)


def test_videos_without_labels_are_written_too(tmp_path, encode, moving):
    (tmp_path / "v").mkdir()
    encode(tmp_path / "v/A.mp4", moving[:3])
    (tmp_path / "Charades_v1_train.csv").write_text("id,actions\nA,\n")
    report = check_dataset(read_dataset(tmp_path))
    write_good(report, ["a"], tmp_path / "out")
    again = read_dataset(tmp_path / "out")
    assert [(r.path, r.labels) for r in again.train] == [(tmp_path / "v/A.mp4", ())]
    assert again.multi_label


def test_names_that_are_no_utf8_are_written(tmp_path, encode, moving):
    name = os.fsdecode(b"caf\xe9")
    encode(tmp_path / "a.mp4", moving[:3])
    (tmp_path / "in" / name).mkdir(parents=True)
    (tmp_path / "a.mp4").rename(tmp_path / "in" / name / f"{name} 1.mp4")
    data = read_dataset(tmp_path / "in")
    write_good(check_dataset(data), data.classes, tmp_path / "out")
    again = read_dataset(tmp_path / "out")
    assert ([r.path for r in again.train], again.classes) == ([data.train[0].path], [name])
    with pytest.raises(ValueError, match=r"'a\\nb' cannot stand in a list"):
        write_good(check_dataset(data), ["a\nb"], tmp_path / "out")
