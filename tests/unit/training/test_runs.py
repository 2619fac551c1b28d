import json

import pytest

from nonlocalnet.training.runs import differing, find_runs


def write_run(folder, options, lines):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(options))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def lines(scores, kind="top1"):
    for i, score in enumerate(scores, 1):
        yield {"kind": "train", "iteration": 10 * i, "loss": 1 / i, "seconds": 2.0 * i}
        yield {"kind": "val", "iteration": 10 * i, kind: score, "unreadable": 0}


@pytest.fixture
def runs(tmp_path):
    same = {"model": "c2d_tiny", "iterations": 30, "out": "anywhere", "resume": False}
    write_run(tmp_path / "a", same | {"lr": 0.1, "lr_steps": [1, 2]}, lines([10.0, 30.0, 20.0]))
    write_run(tmp_path / "deep" / "b", same | {"lr": 0.2, "lr_steps": [1, 2]}, lines([5.0], "map"))
    return tmp_path


def test_runs_are_found_and_summed_up(runs):
    a, b = find_runs([runs])
    assert (a.name, b.name) == ("a", "deep/b")
    found = a.summary()
    assert found["score"] == "top1"
    assert (found["best"], found["last"]) == (30.0, 20.0)
    assert (found["iteration"], found["iterations"]) == (30, 30)
    assert found["loss"] == pytest.approx(1 / 3)
    assert found["clips_per_second"] is None
    assert b.summary()["score"] == "map"
    assert differing([a, b]) == ["lr"]
    assert a.notes == b.notes == []


def test_names_of_runs_of_several_folders(runs):
    assert [run.name for run in find_runs([runs / "a"])] == ["a"]
    assert [run.name for run in find_runs([runs / "a", runs])] == ["a", "deep/b"]  # each once
    write_run(runs / "deep" / "a", {}, [])
    names = [run.name for run in find_runs([runs / "a", runs / "deep"])]
    assert names == [f"{runs}/a", f"{runs}/deep/a", "b"]


def test_curves_over_iterations_and_seconds(runs):
    a, _ = find_runs([runs])
    assert a.points("iteration", "loss") == ([10, 20, 30], [1.0, 1 / 2, 1 / 3])
    assert a.points("seconds", "loss")[0] == [2.0, 4.0, 6.0]
    # validation says no time: that of its iteration
    assert a.points("seconds", "top1") == ([2.0, 4.0, 6.0], [10.0, 30.0, 20.0])
    assert a.points("iteration", "accuracy") == ([], [])


@pytest.mark.parametrize(
    ("config", "metrics", "note"),
    [
        ('{"model": "c2', "", "config.json is damaged"),
        ("[]", "", "config.json is damaged"),
        (None, '{"kind": "train", "iteration": 1, "loss": null}\n', "no config.json"),
        ("{}", '{"kind": "train", "iteration": 7, "loss": 1}\n{"kind": "tr', "1 damaged line"),
        ("{}", '[1]\n"x"\n', "2 damaged lines"),
        ("{}", '{"kind": "train", "iteration": "x", "loss": NaN}\n', None),
        ("{}", "", "metrics.jsonl is empty"),
        ("{}", None, "no metrics.jsonl"),
    ],
)
def test_what_a_crash_leaves_is_a_note(tmp_path, config, metrics, note):
    for name, text in (("config.json", config), ("metrics.jsonl", metrics)):
        if text is not None:
            (tmp_path / name).write_text(text)
    (run,) = find_runs([tmp_path])
    assert note is None or note in "; ".join(run.notes)
    assert run.summary()["best"] is None
    assert run.summary()["loss"] in (None, 1)


def test_no_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run in"):
        find_runs([tmp_path])
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_runs([tmp_path / "none"])
