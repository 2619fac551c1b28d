"""`nonlocalnet train --config FILE`."""

import dataclasses
import json
from pathlib import Path

import pytest

from nonlocalnet.cli import main
from nonlocalnet.cli.train import read
from nonlocalnet.training.config import TrainConfig

TEXT = """
model: c2d_tiny   # a comment
lr: 1e-2
short-side: [32, 36]
batch_size: 4
cache: true
val:
set: []
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(TEXT)
    return path


def test_options_come_from_the_file_and_words_win(file):
    words = ["--config", str(file), "--data", "d", "--out", "o", "--batch-size", "2", "--no-cache"]
    found = read(words).run
    assert (found.model, found.lr, found.short_side) == ("c2d_tiny", 0.01, (32, 36))
    assert (found.batch_size, found.cache, found.val, found.set) == (2, False, None, ())
    # defaults that depend on the network and the number of clips follow the file
    assert read(["--model", "c2d_tiny", *words[2:]]).run.clip == found.clip


def test_every_option_of_a_run_comes_back(tmp_path):
    changed = {
        "data": Path("d"),
        "out": Path("o"),
        "insert": ("res3.*",),
        "look_at": (1.0, 2.0, 3.0),
    }
    run = TrainConfig(**changed, model="c2d_tiny", lr_steps=(3, 5), ema=0.5, compile=True).resolve()
    file = tmp_path / "config.json"
    file.write_text(run.as_json())
    found = read(["--config", str(file), "--out", "other"]).run
    assert dataclasses.replace(found, out=run.out) == run


def test_a_recipe_in_the_file(file, capsys):
    file.write_text("recipe: i3d_r50_nl5_32x2\nweight_decay: 0.5\n")
    assert main(["train", "--config", str(file), "--print-config"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["weight_decay"]) == ("i3d_r50_nl5", 0.5)
    assert main(["train", "c2d_r50_32x2", "--config", str(file), "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "c2d_r50"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lrr: 1", "run.yaml: train has no option --lrr; did you mean --lr?"),
        ("- 1", "run.yaml must hold options, such as `batch_size: 8`"),
        ("a: [", "run.yaml is readable neither as YAML nor as JSON"),
        ("config: other.yaml", "run.yaml names another file of options"),
        ("1: 2", "run.yaml must hold options"),
    ],
)
def test_a_file_of_something_else_is_refused(file, capsys, text, said):
    file.write_text(text)
    assert main(["train", "--config", str(file), "--data", "d", "--out", "o"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_file_that_is_not_there(capsys):
    assert main(["train", "--config", "none.yaml"]) == 2
    assert "no file of options at none.yaml" in capsys.readouterr().err
