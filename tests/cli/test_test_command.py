"""What `nonlocalnet test` prints and writes, alone and under torchrun."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.cli import main
from nonlocalnet.data.synthetic import write_video
from nonlocalnet.models.weights import WeightsInfo, save_weights

SIDE, CLASSES = 32, ["ape", "bee", "cat", "doe", "elk", "fox"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Seven videos, one of them broken, in a list; a network of six classes."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    for i in range(7):
        size = (36, 48 + 4 * i)
        write_video(folder / f"v{i}.mp4", rng.integers(0, 256, (9, *size, 3), dtype=np.uint8))
    (folder / "v3.mp4").write_bytes(b"no video")
    (folder / "list.txt").write_text("".join(f"v{i}.mp4 {i % 6}\n" for i in range(7)))
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny_nl2", num_classes=6, clip="4x2", crop=32)
    model.fc.weight.data.normal_()
    info = WeightsInfo(model.config, CLASSES, short_side=SIDE)
    save_weights(model, folder / "model.safetensors", info)
    info.multi_label = True
    save_weights(model, folder / "many.safetensors", info)
    return folder


def words(work, *more, weights="model.safetensors"):
    given = ["--data", work / "list.txt", "--weights", work / weights, "--device", "cpu"]
    return ["test", *map(str, [*given, "--workers", "0", "--num-clips", "2", *more])]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_results_agrees_with_its_predictions(work, tmp_path, capsys):
    assert main(words(work, "--out", tmp_path / "out")) == 0
    said = capsys.readouterr().out
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "confusion.csv",
        "per_class.csv",
        "predictions.csv",
        "scores.json",
    ]
    predictions = rows(out / "predictions.csv")
    assert [row["video"] for row in predictions] == [f"v{i}.mp4" for i in (0, 1, 2, 4, 5, 6)]
    counts = np.zeros((6, 6), int)
    for row in predictions:
        p = [float(row[name]) for name in CLASSES]
        assert row["predicted"] == CLASSES[int(np.argmax(p))]
        counts[int(row["labels"]), int(np.argmax(p))] += 1
    confusion = rows(out / "confusion.csv")
    assert [[int(row[name]) for name in CLASSES] for row in confusion] == counts.tolist()
    classes = rows(out / "per_class.csv")
    assert classes[-1] == {"class": "doe", "videos": "0", "top1": "", "confused_with": ""}
    worst = [float(row["top1"]) for row in classes[:-1]]
    assert worst == sorted(worst)
    assert sum(int(row["videos"]) for row in classes) == 6
    scores = json.loads((out / "scores.json").read_text())
    assert scores["top1"] == pytest.approx(100 * counts.trace() / 6)
    assert scores["mean_class"] == pytest.approx(np.mean(worst), abs=0.01)
    assert (scores["videos"], scores["unreadable"]) == (6, 1)
    assert (scores["num_clips"], scores["num_crops"], scores["side"]) == (2, 3, SIDE)
    assert "v3.mp4" in scores["errors"][0]
    assert "top5" in scores
    assert "taken for" in said


def test_many_labels_have_average_precision_per_class(work, tmp_path):
    out = tmp_path / "out"
    assert main(words(work, "--out", out, weights="many.safetensors")) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "per_class.csv",
        "predictions.csv",
        "scores.json",
    ]
    classes = rows(out / "per_class.csv")
    found = [float(row["ap"]) for row in classes if row["ap"]]
    assert found == sorted(found)
    scores = json.loads((out / "scores.json").read_text())
    assert scores["map"] == pytest.approx(np.mean(found), abs=0.01)


@pytest.mark.parametrize(
    ("more", "views"),
    [
        (("--crop", "whole"), "2 x 1"),
        (("--num-crops", "6"), "2 x 6"),
        (("--num-crops", "1", "--side", "36", "--crop", "32"), "2 x 1"),
    ],
)
def test_protocols_by_words(work, capsys, more, views):
    assert main(words(work, *more)) == 0
    assert views in capsys.readouterr().out


def test_arithmetic_by_word(work, tmp_path):
    for word in ("fp32", "bf16"):
        out = tmp_path / f"{word}.csv"
        assert main(words(work, "--precision", word, "--out", out)) == 0
    full, half = rows(tmp_path / "fp32.csv"), rows(tmp_path / "bf16.csv")
    away = [
        abs(float(a[c]) - float(b[c])) for a, b in zip(full, half, strict=True) for c in CLASSES
    ]
    assert 1e-5 < max(away) < 0.1


def test_a_protocol_that_does_not_fit_is_one_sentence(work, capsys):
    assert main(words(work, "--crop", "whole", "--num-crops", "3")) == 2
    assert "a whole frame is one crop" in capsys.readouterr().err


def torchrun(work, processes, out):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "nonlocalnet"]
    done = subprocess.run(
        [*command, *words(work, "--out", out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_many_processes_give_what_one_gives(work, tmp_path, processes):
    assert main(words(work, "--out", tmp_path / "one")) == 0
    said = torchrun(work, processes, tmp_path / "many")
    assert said.count("unreadable") == 1  # one process speaks
    one, many = rows(tmp_path / "one/predictions.csv"), rows(tmp_path / "many/predictions.csv")
    assert len(many) == 6
    for a, b in zip(one, many, strict=True):
        for key in a:
            if key in CLASSES:
                assert float(a[key]) == pytest.approx(float(b[key]), abs=2e-6)
            else:
                assert a[key] == b[key]
    facts = [json.loads((tmp_path / name / "scores.json").read_text()) for name in ("one", "many")]
    assert facts[0] == facts[1]
