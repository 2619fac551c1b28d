import contextlib
import csv
import importlib
import json
import os
import pty
import re
import subprocess
import sys

import pytest

from launching import run_python
from nonlocalnet.checkpoints.zoo import list_releases
from nonlocalnet.cli import COMMANDS, main
from nonlocalnet.cli.models import STORED
from nonlocalnet.cli.options import check_names
from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.evaluation.cost import cost
from nonlocalnet.networks.registry import list_models
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.recipes import RECIPES
from nonlocalnet.training.trainer import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with videos and the weights of a network that saw them twice."""
    folder = tmp_path_factory.mktemp("run")
    videos = write_same_color(folder / "videos", 6, seed=0)
    train(
        TrainConfig(
            data=videos,
            out=folder / "out",
            model="c2d_tiny_nl2",
            clip="4x2",
            crop=32,
            short_side=(32, 32),
            iterations=2,
            batch_size=4,
            lr=0.01,
            workers=0,
            device="cpu",
        )
    )
    return folder


@pytest.fixture
def weights(run):
    return str(run / "out" / "model.safetensors")


def test_without_words_it_says_what_there_is(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)


def test_an_unknown_command(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "nonlocalnet: no command 'trian'; did you mean train?\n"
    assert main(["xyzzy"]) == 2
    assert f"there are {', '.join(COMMANDS)}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["predict", "x.mp4", "--weight", "w"],
            "--weight; did you mean --weights?",
        ),
        (["predict", "x.mp4", "--wieghts=w"], "no option --wieghts; did you mean --weights?"),
        (["test", "--weights", "w", "--data", "d", "--num_clip", "3"], "did you mean --num-clips?"),
        (["data", "chekc", "x"], "data has no command 'chekc'; did you mean check?"),
        (["train", "--dta", "x"], "train has no option --dta; did you mean --data?"),
        (["train", "--no-smoke-tst"], "did you mean --no-smoke-test?"),
        (
            ["data", "check", "x", "--image", "y"],
            "--image; did you mean --images?",
        ),
        (["data", "resize", "x", "y", "--short_sid", "9"], "did you mean --short-side?"),
        (["zoo", "--xyzzy"], "zoo has no option --xyzzy; nonlocalnet zoo --help lists all"),
        (["predict", "--videos", "x"], "predict has no option --videos"),
    ],
)
def test_a_misspelt_option_is_told_with_the_nearest(words, said, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("nonlocalnet: ")
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize("command", [*COMMANDS, "data check", "data resize"])
def test_every_command_has_help_and_knows_its_options(command, capsys, monkeypatch):
    name, *more = command.split()
    with pytest.raises(SystemExit) as ended:
        main([name, *more, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"nonlocalnet {command}" in said
    line = r"^[│ ] +(?:-\w, )?(--[a-z0-9-]+)(?:, (--no-[a-z0-9-]+))?"
    options = re.findall(line, said, re.MULTILINE)
    options = [word for pair in options for word in pair if word]
    assert "--help" in options
    module = importlib.import_module(f"nonlocalnet.cli.{name}")
    check_names(name, module.Options, options)


def test_models_prints_what_the_paper_counts(capsys):
    assert main(["models", "c2d_r101", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["parameters"] / 1e6 == pytest.approx(43.2, abs=0.05)  # paper, table 2e
    assert main(["models", "c2d_tiny*"]) == 0
    assert "c2d_tiny_nl2" in capsys.readouterr().out


def test_models_lists_what_counting_gives(capsys):
    stored = json.loads(STORED.read_text())
    assert list(stored) == list_models()
    for name in ("i3d_tiny_nl2", "c2d_r50_nl5", "keypoint_rcnn_tiny_fpn_nl5"):
        found = cost(name, clip="32x2", crop=224)
        assert stored[name] == [found.parameters, found.multiply_adds]
    assert main(["models", "c2d_tiny_nl2", "--json", "--clip", "8x8", "--crop", "64"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    found = cost("c2d_tiny_nl2", clip="8x8", crop=64)
    assert (row["parameters"], row["multiply_adds"]) == (found.parameters, found.multiply_adds)


@pytest.mark.slow
def test_models_lists_what_counting_gives_for_all():
    for name, counts in json.loads(STORED.read_text()).items():
        found = cost(name, clip="32x2", crop=224)
        assert counts == [found.parameters, found.multiply_adds]


def test_models_does_not_wait_for_torch():
    code = (
        "import sys; from nonlocalnet.cli import main\n"
        "main(['models']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "i3d_r101_nl10" in done.stdout


@pytest.mark.parametrize(
    "words", [["models"], ["zoo"], ["recipes"], ["zoo", "i3d_*"], ["models", "*rcnn*"]]
)
def test_tables_fit_and_names_are_whole(words, capsys):
    assert main(words) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    names = {"models": list_models, "zoo": lambda p="*": [r.name for r in list_releases(p)]}
    for name in names.get(words[0], lambda: RECIPES)(*words[1:]):
        assert name in said


def test_models_without_a_match(capsys):
    assert main(["models", "resnext*"]) == 2
    assert "no model matches 'resnext*'" in capsys.readouterr().err


def test_train_from_words(run, tmp_path, capsys):
    words = ["--data", str(run / "videos"), "--out", str(tmp_path / "r"), "--model", "c2d_tiny"]
    words += ["--clip", "4x2", "--crop", "32", "--short-side", "32", "32", "--iterations", "1"]
    words += ["--batch-size", "2", "--workers", "0", "--lr-steps", "1", "2", "--device", "cpu"]
    assert main(["train", *words]) == 0
    assert "6 training videos, 2 classes" in capsys.readouterr().err
    assert json.loads((tmp_path / "r" / "config.json").read_text())["lr_steps"] == [1, 2]


def test_test_prints_a_table_and_writes_predictions(run, weights, tmp_path, capsys):
    words = ["--data", str(run / "videos"), "--weights", weights, "--num-clips", "2"]
    words += ["--num-crops", "3", "--workers", "0", "--device", "cpu"]
    assert main(["test", *words, "--out", str(tmp_path / "p.csv")]) == 0
    said = capsys.readouterr().out
    assert "top1" in said
    assert "2 x 3" in said
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        assert float(row["different"]) + float(row["same"]) == pytest.approx(1, abs=2e-6)
        assert row["video"].startswith(("same/", "different/"))
    hits = sum((float(r["same"]) > float(r["different"])) == (r["labels"] == "1") for r in rows)
    assert main(["test", *words, "--out", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["top1"] == pytest.approx(100 * hits / 6)


def test_test_skips_and_names_unreadable_videos(run, weights, tmp_path, capsys):
    good = sorted((run / "videos").rglob("*.mp4"))[0]
    (tmp_path / "bad.mp4").write_bytes(b"")
    (tmp_path / "l.txt").write_text(f"{good} 0\nbad.mp4 1\n")
    words = ["--data", str(tmp_path / "l.txt"), "--weights", weights, "--workers", "0"]
    assert main(["test", *words, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "bad.mp4: the file is empty" in said


def test_predict_names_classes_with_probabilities(run, weights, capsys):
    video = str(sorted((run / "videos").rglob("*.mp4"))[0])
    words = ["predict", video, "--weights", weights, "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    classes = json.loads(capsys.readouterr().out)["classes"]
    assert set(classes) == {"same", "different"}
    assert sum(classes.values()) == pytest.approx(1, abs=1e-5)
    assert main([*words, "--top", "1"]) == 0
    said = capsys.readouterr().out
    assert max(classes, key=classes.get) in said


def test_predict_prints_one_table_of_many_videos(run, weights, tmp_path, capsys):
    videos = list(map(str, sorted((run / "videos").rglob("*.mp4"))))
    (tmp_path / "bad.mp4").write_bytes(b"")
    words = ["--weights", weights, "--device", "cpu", "--num-clips", "1"]
    assert main(["predict", *videos[:3], str(tmp_path / "bad.mp4"), *videos[3:], *words]) == 2
    streams = capsys.readouterr()
    assert streams.out.count("┏") == 1
    for video in videos:
        assert video.rpartition("/")[2] in streams.out
    assert "bad.mp4: the file is empty" in streams.err
    assert "1 of 7 videos could not be read" in streams.err
    assert main(["predict", *videos[:2], *words, "--top", "1"]) == 0
    assert "then" not in capsys.readouterr().out


def test_predict_goes_on_after_a_bad_file(run, weights, tmp_path, capsys):
    video = str(sorted((run / "videos").rglob("*.mp4"))[0])
    bad = tmp_path / "notes.mp4"
    bad.write_text("hello")
    words = ["predict", str(bad), video, "--weights", weights, "--device", "cpu", "--json"]
    assert main(words) == 2
    streams = capsys.readouterr()
    assert "notes.mp4" in streams.err
    assert json.loads(streams.out)["video"] == video


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "x.mp4", "--weights", "none.safetensors"], "no weights file"),
        (["predict", "--weights", "none.safetensors"], "name at least one video"),
        (["train", "--data", "nowhere", "--out", "o", "--model", "c3d"], "c2d"),
        (["train", "--data", "nowhere", "--out", "o"], "nowhere"),
        (["test", "--data", "nowhere", "--weights", "none"], "no weights file"),
    ],
)
def test_errors_of_use_are_one_sentence(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("nonlocalnet: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_missing_extra_is_one_sentence(tmp_path):
    code = (
        "import sys; sys.modules['tyro'] = None\n"
        "from nonlocalnet.cli import main; sys.exit(main(['models']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'nonlocalnet[video]'" in done.stderr


@pytest.mark.parametrize(
    ("missing", "extra"),
    [
        ("av", "video"),
        ("torchvision", "torchvision"),
        ("uvicorn", "explore"),
        ("starlette.routing", "explore"),
        ("faster_coco_eval", "coco"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    missing, extra, monkeypatch, capsys
):
    def fail(module):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr("importlib.import_module", fail)
    assert main(["detect"]) == 2
    package = missing.partition(".")[0]
    assert capsys.readouterr().err == (
        f"nonlocalnet: {package} is needed for detect and not installed: "
        f"pip install 'nonlocalnet[{extra}]'\n"
    )


def test_where_to_write_is_checked_before_the_test(run, weights, tmp_path, capsys):
    words = ["--data", str(run / "videos"), "--weights", weights, "--out", str(tmp_path / "p.txt")]
    assert main(["test", *words]) == 2
    streams = capsys.readouterr()
    assert "out must be a folder" in streams.err
    assert "top1" not in streams.out


def test_no_class_asked_for(run, weights, capsys):
    video = str(sorted((run / "videos").rglob("*.mp4"))[0])
    assert main(["predict", video, "--weights", weights, "--top", "0", "--device", "cpu"]) == 2
    assert "--top must be at least 1; got 0" in capsys.readouterr().err


def test_on_a_terminal_messages_stand_on_lines_of_their_own(run, tmp_path):
    words = ["--data", run / "videos", "--val", run / "videos", "--out", tmp_path / "r"]
    words += ["--model", "c2d_tiny", "--clip", "4x2", "--crop", "32", "--short-side", "32", "32"]
    words += ["--iterations", "2", "--eval-every", "1", "--workers", "0", "--device", "cpu"]
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    streams = {"stdout": child, "stderr": child, "text": False}
    process = run_python("nonlocalnet", "train", *words, **streams, env=environment)
    os.close(child)
    seen = b""
    with contextlib.suppress(OSError):  # what Linux says at the end
        while part := os.read(parent, 4096):
            seen += part
    os.close(parent)
    assert process.wait(timeout=60) == 0
    assert b"2/2" in seen  # the bar
    # every message begins a line, or one that was just cleared
    for message in (b"iteration 1: validation", b"iteration 2: validation", b"weights: "):
        before = seen[: seen.index(message)]
        assert before.endswith((b"\n", b"\x1b[2K", b"\r")), before[-80:]
