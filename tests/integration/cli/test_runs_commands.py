"""`nonlocalnet runs` and `nonlocalnet plot`."""

import json

import pytest
from PIL import Image

from nonlocalnet.cli import main
from nonlocalnet.evaluation.metrics import METRICS, Metric, find_metric
from nonlocalnet.inspection.curves import panels


@pytest.fixture
def runs(tmp_path):
    for name, lr, scores in (("slow", 0.01, [20.0, 40.0]), ("fast", 0.1, [50.0, 45.0])):
        folder = tmp_path / name
        folder.mkdir()
        options = {"model": "c2d_tiny", "lr": lr, "iterations": 40, "out": name}
        (folder / "config.json").write_text(json.dumps(options))
        lines = []
        for i, score in enumerate(scores, 1):
            lines.append({"kind": "train", "iteration": 10 * i, "loss": 0.5, "seconds": i})
            other = {"mean_class": 100 - score, "loss_of_someone": score}
            lines.append({"kind": "val", "iteration": 10 * i, "top1": score} | other)
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text("{")
    return tmp_path


def test_runs_best_first_with_the_options_that_differ(runs, capsys):
    assert main(["runs", str(runs), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["fast", "slow", "new"]
    assert rows[0]["options"] == {"lr": 0.1}
    assert (rows[0]["best"], rows[0]["last"], rows[0]["iteration"]) == (50.0, 45.0, 20)
    assert "config.json is damaged" in rows[2]["notes"]
    assert main(["runs", str(runs)]) == 0
    said = capsys.readouterr().out
    assert said.index("fast") < said.index("slow") < said.index("new")
    assert "50.0 top1" in said
    assert "20/40" in said


def test_runs_by_another_metric(runs, tmp_path, capsys, monkeypatch):
    assert main(["runs", str(runs), "--metric", "mean_class", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["best"]) for row in rows] == [
        ("slow", 80.0),
        ("fast", 55.0),
        ("new", None),
    ]
    lower = Metric("loss_of_someone", "loss", higher=False)
    monkeypatch.setitem(METRICS, "loss_of_someone", lower)
    assert main(["runs", str(runs), "--metric", "loss_of_someone", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["best"]) for row in rows[:2]] == [("slow", 20.0), ("fast", 45.0)]
    out = str(tmp_path / "c.png")
    assert main(["plot", str(runs / "fast"), "--metric", "mean_class", "--out", out]) == 0
    for command in ("runs", "plot"):
        assert main([command, str(runs), "--metric", "mean"]) == 2
        said = capsys.readouterr().err.replace("\n", " ")
        assert "no run has --metric mean; there are top1, mean_class" in said


def test_runs_without_any(tmp_path, capsys):
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "no folder" in capsys.readouterr().err


@pytest.mark.parametrize("x", ["iteration", "seconds"])
def test_plot_draws_a_picture(runs, tmp_path, capsys, x):
    out = tmp_path / "pictures" / "c.png"
    words = [str(runs / "fast"), str(runs / "slow"), "--out", str(out), "--x", x]
    assert main(["plot", *words]) == 0
    assert str(out) in capsys.readouterr().out
    with Image.open(out) as picture:
        assert min(picture.size) > 400


def test_plot_leaves_out_what_has_no_curve(runs, capsys):
    assert main(["plot", str(runs), "--out", str(runs / "c.png")]) == 0
    assert "new: no loss over iteration, left out" in capsys.readouterr().err
    assert main(["plot", str(runs / "new"), "--out", str(runs / "d.png")]) == 2
    assert "nothing to plot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"), [([], "name at least one run"), (["x", "--out", "c.txt"], "out must end in")]
)
def test_plot_refuses(words, said, capsys):
    assert main(["plot", *words]) == 2
    assert said in capsys.readouterr().err


def measured(folder, names, **options):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model": "x"} | options))
    lines = [{"kind": "train", "iteration": 1, "loss": 0.5, "seconds": 1}]
    lines.append({"kind": "val", "iteration": 1} | dict.fromkeys(names, 10.0))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn: panels and their lines."""
    found = {}

    def look(lines, xlabel):
        found.update(lines)
        return panels(lines, xlabel=xlabel)

    monkeypatch.setattr("nonlocalnet.inspection.curves.panels", look)
    return found


@pytest.mark.parametrize(
    ("names", "panel"),
    [
        (["bbox_AP", "bbox_AP50", "segm_AP", "segm_AP50"], "validation mask AP, %"),
        (["bbox_AP", "keypoints_AP"], "validation keypoint AP, %"),
        (["top1", "top5", "mean_class"], "validation top-1, %"),
        (["map"], "validation mAP, %"),
    ],
)
def test_every_kind_of_run_is_drawn_and_listed(names, panel, tmp_path, drawn, capsys):
    measured(tmp_path / "run", names)
    assert main(["plot", str(tmp_path / "run"), "--out", str(tmp_path / "c.png")]) == 0
    assert list(drawn) == ["training loss", panel]
    assert main(["runs", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert (row["best"], row["score"]) == (10.0, find_metric(row["score"]).name)


def test_unknown_scores_are_told_and_left_out(tmp_path, drawn, capsys):
    measured(tmp_path / "run", ["fancy"])
    assert main(["plot", str(tmp_path / "run"), "--out", str(tmp_path / "c.png")]) == 0
    assert "run: no known score in its validation (fancy), left out" in capsys.readouterr().err
    assert list(drawn) == ["training loss"]
    assert main(["runs", str(tmp_path)]) == 0


def test_the_legend_has_no_options_that_were_not_given(tmp_path, drawn):
    measured(tmp_path / "a", ["top1"], look=None)
    measured(tmp_path / "b", ["top1"], look="x.mp4")
    assert main(["plot", *(str(tmp_path / x) for x in "ab"), "--out", str(tmp_path / "c.png")]) == 0
    assert list(drawn["training loss"]) == ["a", "b (look x.mp4)"]
