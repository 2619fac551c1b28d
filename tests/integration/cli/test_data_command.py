"""`data check` and `train` judge a data set alike, and say what they leave out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nonlocalnet.cli import main
from nonlocalnet.data.video.write import write_video
from nonlocalnet.explorer.library import videos_of
from nonlocalnet.training.classification import make_task
from nonlocalnet.training.config import TrainConfig


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Class folders of two splits, with a class that is written in two ways."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for name, frames in (
        ("train/fight/1", 10),
        ("train/fight/2", 20),
        ("train/Fight/3", 12),
        ("train/walk/4", 30),
        ("val/fight/5", 14),
        ("val/walk/6", 16),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        video = rng.integers(0, 255, (frames, 32, 48, 3), dtype=np.uint8)
        write_video(root / f"{name}.mp4", video, fps=10)
    (root / "train/walk/notes.txt").touch()
    return root


def test_the_check_describes_and_judges(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    file = tmp_path / "found.json"
    assert main(["data", "check", str(clips), "--workers", "1", "--json", str(file)]) == 1
    shown = capsys.readouterr().out
    tables = [line for line in shown.splitlines() if "│" in line]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in tables]
    assert ["train", "4", "3", "10 / 16 / 30", "1.0 / 1.6 / 3.0", "48x32"] in rows
    assert ["val", "2", "2", "14 / 15 / 16", "1.4 / 1.5 / 1.6", "48x32"] in rows
    assert ["0", "Fight", "1", "0"] in rows
    assert ["1", "fight", "2", "1"] in rows
    assert max(map(len, tables)) <= 80
    assert "train: 1 file is no video: walk/notes.txt" in shown
    report = json.loads(file.read_text())
    (finding,) = report["findings"]
    assert finding["kind"] == "class"
    assert finding["text"].startswith(
        "1 class of train has no video in val: Fight; val has 'fight'"
    )
    assert "train: 1 file is no video: walk/notes.txt" in report["notes"]


@pytest.mark.parametrize("apart", [False, True])
def test_training_judges_the_same(clips, apart, capsys):
    where = {"data": clips / "train", "val": clips / "val"} if apart else {"data": clips}
    with pytest.raises(ValueError, match="1 class of train has no video in val: Fight"):
        make_task(TrainConfig(**where, out=Path("unused"), model="i3d_r50"))
    assert "1 file is no video: walk/notes.txt" in capsys.readouterr().err


def test_the_explorer_and_the_copy_name_the_same(clips, tmp_path, capsys):
    videos = videos_of(clips / "train")
    assert [path.name for path in videos] == ["3.mp4", "1.mp4", "2.mp4", "4.mp4"]
    assert "1 file is no video: walk/notes.txt" in capsys.readouterr().err
    (tmp_path / "in/v").mkdir(parents=True)
    (tmp_path / "in/v/a.srt").touch()
    (tmp_path / "in/v/a.mp4").write_bytes((clips / "val/fight/5.mp4").read_bytes())
    assert main(["data", "resize", str(tmp_path / "in"), str(tmp_path / "out"), "--workers=1"]) == 0
    assert "1 file is no video: v/a.srt" in capsys.readouterr().out
    (tmp_path / "in/v/a.mp4").unlink()
    with pytest.raises(ValueError, match=r"has no videos.*1 file is no video: v/a\.srt"):
        videos_of(tmp_path / "in")
