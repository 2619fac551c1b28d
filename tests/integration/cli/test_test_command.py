"""What `nonlocalnet test` prints and writes, alone and in many processes."""

import csv
import json

import numpy as np
import pytest
import torch

import nonlocalnet as nl
from launching import Command
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import main
from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.synthetic import write_video
from nonlocalnet.evaluation.views import identify_videos

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
        "wrong.csv",
    ]
    predictions = rows(out / "predictions.csv")
    assert [row["video"] for row in predictions] == [f"v{i}.mp4" for i in (0, 1, 2, 4, 5, 6)]
    counts = np.zeros((6, 6), int)
    for row in predictions:
        p = [float(row[name]) for name in CLASSES]
        assert row["predicted"] == CLASSES[int(np.argmax(p))]
        assert int(row["predicted_label"]) == int(np.argmax(p))
        assert row["label_names"] == CLASSES[int(row["labels"])]
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
        "wrong.csv",
    ]
    classes = rows(out / "per_class.csv")
    found = [float(row["ap"]) for row in classes if row["ap"]]
    assert found == sorted(found)
    scores = json.loads((out / "scores.json").read_text())
    assert scores["map"] == pytest.approx(np.mean(found), abs=0.01)


def test_what_was_taken_for_another_class_is_listed_the_most_certain_first(work, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "list.txt").write_text("".join(f"{work}/v0.mp4 {k}\n" for k in range(6)) * 3)
    given = words(work, "--out", out)
    given[given.index("--data") + 1] = str(tmp_path / "list.txt")
    assert main(given) == 0
    said = capsys.readouterr().out
    predictions, wrong = rows(out / "predictions.csv"), rows(out / "wrong.csv")
    assert len(wrong) == sum(row["labels"] != row["predicted_label"] for row in predictions) == 15
    certain = [float(row["probability"]) for row in wrong]
    assert certain == sorted(certain, reverse=True)
    assert all(row[row["predicted"]] == wrong[0]["probability"] for row in predictions)
    assert f"and 5 more: {out}/wrong.csv has all" in " ".join(said.split())
    low, high = json.loads((out / "scores.json").read_text())["intervals"]["top1"]
    assert f"top1 {low:.1f} to {high:.1f}" in said
    # the bounds are those shares from which 3 of 18 is 1.96 standard errors away
    for share in (low / 100, high / 100):
        assert abs(share - 3 / 18) == pytest.approx(
            1.96 * (share * (1 - share) / 18) ** 0.5, abs=1e-4
        )


@pytest.mark.parametrize("what", ["trained_on", "chosen_on"])
def test_a_test_on_videos_that_the_weights_know_is_said_to_be_one(work, tmp_path, capsys, what):
    records = read_dataset(work / "list.txt").train
    model = nl.load(work / "model.safetensors")
    model.info.facts[what] = identify_videos(records)
    save_weights(model, work / "known.safetensors", model.info)
    said = {
        "trained_on": "the network was trained on these videos",
        "chosen_on": "chosen because they scored best on these",
    }
    assert main(words(work, weights="known.safetensors")) == 0
    assert said[what] in " ".join(capsys.readouterr().out.split())
    # the same names and labels, and other videos
    for i in range(7):
        (tmp_path / f"v{i}.mp4").write_bytes((work / f"v{(i + 1) % 7}.mp4").read_bytes())
    (tmp_path / "list.txt").write_text((work / "list.txt").read_text())
    given = words(work, weights="known.safetensors")
    given[given.index("--data") + 1] = str(tmp_path / "list.txt")
    assert main(given) == 0
    assert said[what] not in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("v0.mp4 -\nv1.mp4 0\n", "1 of 2 videos have no label, v0.mp4 for one"),
        ("v0.mp4\nv1.mp4\n", "nonlocalnet predict names the classes of videos without labels"),
        (None, "nonlocalnet predict names the classes of videos without labels"),
        ("v0.mp4 0,1\n", "v0.mp4 has 2 labels, and"),
    ],
)
def test_without_labels_it_points_to_predict(work, tmp_path, capsys, content, said):
    for i in range(2):
        (tmp_path / f"v{i}.mp4").write_bytes((work / f"v{i}.mp4").read_bytes())
    given = words(work)
    source = tmp_path if content is None else tmp_path / "list.txt"
    if content is not None:
        source.write_text(content)
    given[given.index("--data") + 1] = str(source)
    assert main(given) == 2
    error = capsys.readouterr().err
    assert said in error
    assert ("nonlocalnet predict" in error) == ("0,1" not in (content or ""))
    assert "=True" not in error
    assert error.count("\n") == 1


def test_a_folder_of_some_of_the_classes_is_tested(work, tmp_path, capsys):
    (tmp_path / "some/fox").mkdir(parents=True)
    (tmp_path / "some/fox/a.mp4").write_bytes((work / "v0.mp4").read_bytes())
    given = words(work, "--out", tmp_path / "p.csv")
    given[given.index("--data") + 1] = str(tmp_path / "some")
    assert main(given) == 0
    assert "has 1 of the 6 classes" in " ".join(capsys.readouterr().err.split())
    (row,) = rows(tmp_path / "p.csv")
    assert (row["labels"], row["label_names"]) == ("5", "fox")
    (tmp_path / "some/fox").rename(tmp_path / "some/yak")
    assert main(given) == 2
    assert "has the classes ['yak']" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["num-clips", "side", "crop"])
def test_numbers_below_1_are_refused_by_the_options_that_were_typed(work, capsys, option):
    assert main(words(work, f"--{option}", "0")) == 2
    assert f"--{option} must be at least 1; got 0" in capsys.readouterr().err


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


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_many_processes_give_what_one_gives(work, tmp_path, processes):
    assert main(words(work, "--out", tmp_path / "one")) == 0
    command = Command(words(work, "--out", tmp_path / "many"), processes)
    said, error = command.communicate(timeout=300)
    assert command.returncode == 0, error
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
