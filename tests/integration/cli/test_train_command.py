"""What is typed after `nonlocalnet train`: recipes, overrides, --resume; and `recipes`."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.load import Pretrained
from nonlocalnet.cli import main
from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.recipes import RECIPES
from nonlocalnet.training.trainer import train


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_same_color(tmp_path_factory.mktemp("videos"), 6, seed=0)


def resolved(capsys, *words):
    assert main(["train", *words, "--print-config"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_recipe_is_the_default_and_words_win(capsys):
    words = ("c2d_r101_nl5_time_32x2", "--data", "d", "--out", "o", "--batch-size", "16")
    found = resolved(capsys, *words)
    assert (found["model"], found["extent"]) == ("c2d_r101_nl5", "time")
    assert found["recipe"] == "c2d_r101_nl5_time_32x2"
    # a quarter of the clips: a quarter of the rate, four times the updates
    assert (found["lr"], found["iterations"]) == (0.0025, 1_600_000)
    assert found["lr_steps"] == [600_000, 1_200_000]


def test_a_smoke_test_then_resume_with_nothing_retyped(videos, tmp_path, capsys):
    out = str(tmp_path / "smoke")
    words = ["run_i3d_nlnet_400k", "--smoke-test", "--data", str(videos), "--device", "cpu"]
    assert main(["train", *words, "--out", out]) == 0
    assert json.loads((tmp_path / "smoke" / "config.json").read_text())["iterations"] == 4
    assert main(["train", "--resume", "--out", out, "--iterations", "5"]) == 0
    said = capsys.readouterr().err
    assert "resumed at iteration 4" in said
    assert main(["train", "--resume", "--out", out, "--lr", "1"]) == 2
    assert "lr 1.0, not 0.001" in capsys.readouterr().err.replace("\n", " ")
    assert main(["train", "c2d_r50_32x2", "--resume", "--out", out]) == 2
    assert "is a run of run_i3d_nlnet_400k, not of c2d_r50_32x2" in capsys.readouterr().err


def test_a_word_of_init_is_no_file(videos, tmp_path, capsys):
    for word in ("imagenet", "kinetics400"):
        words = ["--model", "c2d_tiny", "--clip", "4x2", "--init", word, "--device", "cpu"]
        assert main(["train", *words, "--data", str(videos), "--out", str(tmp_path / "o")]) == 2
        said = capsys.readouterr().err.replace("\n", " ")
        assert "c2d_tiny has no" in said
        assert "pass --init none, or --init FILE" in said
        assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["i3d_r50_nl6_32x2"], "did you mean 'i3d_r50_nl5_32x2'"),
        (["i3d_r50_nl5_128x1"], "starts from the network of i3d_r50_nl5_32x2"),
        (["--smoke-test"], "--smoke-test needs a recipe"),
        (["c2d_r50_32x2", "--init", "gone.pth"], "at d: name a data set"),
        (["--model", "c2d_tiny", "--warmup", "-1"], "warmup must be at least 0"),
    ],
)
def test_errors_of_use(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = [word for word in words[:1] if not word.startswith("-")]
    rest = words[len(recipe) :]
    assert main(["train", *recipe, "--data", "d", "--out", "o", *rest]) == 2
    assert said in capsys.readouterr().err


def test_recipes_lists_all_and_tells_one(capsys):
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in RECIPES)
    assert main(["recipes", "run_i3d_nlnet_400k_32f"]) == 0
    said = capsys.readouterr().out
    assert "torchrun --nproc-per-node 8 -m nonlocalnet train run_i3d_nlnet_400k_32f" in said
    assert "74.9 / 91.6" in said
    assert main(["recipes", "run_i3d_nlnet_400k_32f", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == [74.9, 91.6]


@pytest.mark.parametrize("model", ["c2d_tiny_nl2", "mask_rcnn_tiny_fpn_nl1"])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("pairwize=x", "did you mean 'pairwise'?"),
        ("pairwise=x", "pairwise must be one of"),
        ("num_classes=3", "num_classes is set by the data, not by --set"),
        ("clip=8x8", "clip is set by --clip, not by --set"),
    ],
)
def test_wrong_arguments_of_the_network_are_refused_before_data_is_read(
    model, option, said, capsys, tmp_path
):
    words = ("train", "--model", model, "--data", str(tmp_path), "--out", str(tmp_path / "o"))
    assert main([*words, "--set", option]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "o").exists()


def leave(*words, out="deep/run"):
    """Words of a run of one update."""
    small = ("--crop", "32", "--short-side", "32", "36", "--clip", "4x2", "--device", "cpu")
    return ["train", "--out", out, *small, "--iterations", "1", "--workers", "0", *words]


@pytest.fixture
def place(tmp_path, monkeypatch, videos):
    """A working directory with videos as `v`, from which no server is reached."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v").symlink_to(videos)
    monkeypatch.setenv("NONLOCALNET_CACHE", str(tmp_path / "v" / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path


FAILURES = [
    (["--model", "c2d_r50_nl5", "--data", "v"], "cannot reach download.pytorch.org"),
    (["--model", "c2d_tiny", "--data", "v", "--init", "gone.pth"], "no weights file at gone.pth"),
    (["--model", "c2d_tiny", "--data", "empty"], "empty"),
    (["--model", "c2d_tiny", "--data", "broken"], "cannot be read"),
    (["--model", "c2d_tiny", "--data", "v", "--init", "bad.pth"], "bad.pth"),
    (["--model", "c2d_tiny", "--data", "v", "--look", "bad.pth"], "no non-local block"),
    (["--model", "c2d_tiny_nl2", "--data", "v", "--look", "bad.pth"], "bad.pth"),
    (["--model", "c2d_tiny", "--data", "v", "--sync-norm"], "--sync-norm needs GPUs"),
]


@pytest.mark.parametrize(("words", "said"), FAILURES)
def test_a_start_that_fails_leaves_no_folder(words, said, place, capsys):
    (place / "empty").mkdir()
    (place / "broken" / "a").mkdir(parents=True)
    for path in (place / "broken" / "a" / "1.mp4", place / "bad.pth"):
        path.write_text("no video, no weights")
    before = sorted(place.rglob("*"))
    assert main(leave(*words)) == 2
    assert re.search(said, " ".join(capsys.readouterr().err.split()))
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_during_set_up_ends_with_130_and_leaves_nothing(number, place, monkeypatch):
    monkeypatch.setattr(
        "nonlocalnet.training.setup.load_weights", lambda *_, **__: signal.raise_signal(number)
    )
    (place / "w.safetensors").write_bytes(b"")
    monkeypatch.setattr("nonlocalnet.training.setup.read_pretrained", lambda path: Pretrained())
    before = signal.getsignal(signal.SIGTERM)
    assert main(leave("--model", "c2d_tiny", "--data", "v", "--init", "w.safetensors")) == 130
    assert not (place / "deep").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_was_there_before_stays_when_a_start_fails(place):
    (place / "run" / "checkpoints").mkdir(parents=True)
    (place / "run" / "config.json").write_text("mine")
    (place / "run" / "notes.txt").write_text("mine")
    words = leave("--model", "c2d_tiny", "--data", "v", "--init", "gone.pth", out="run")
    assert main(words) == 2
    found = {path.name: path for path in (place / "run").iterdir()}
    assert sorted(found) == ["checkpoints", "config.json", "notes.txt"]
    assert found["config.json"].read_text() == "mine"


def test_a_start_without_the_network_says_what_to_type(place, capsys):
    assert main(leave("--model", "c2d_r50_nl5", "--data", "v")) == 2
    said = capsys.readouterr().err
    assert "--init FILE" in said
    assert "--init none" in said
    assert "`nonlocalnet zoo get NAME --mirror PLACE`" in said
    config = TrainConfig(data=Path("v"), out=Path("o"), model="c2d_r50", iterations=1)
    with pytest.raises(OSError, match=r"init=FILE.*init='none'"):  # as it is written in Python
        train(config)


def test_stages_that_a_start_lacks_are_random_if_that_is_said(place, capsys):
    torch.manual_seed(0)
    network = nl.create_model("c2d_tiny", num_classes=3, clip="4x2", crop=32)
    lacking = {k: v for k, v in network.state_dict().items() if not k.startswith(("res4", "fc"))}
    torch.save(lacking, "start.pth")
    words = ("--model", "c2d_tiny_nl2", "--data", "v", "--init", "start.pth")
    assert main(leave(*words)) == 2
    assert "of res4: pass --init-missing res4 to start" in " ".join(capsys.readouterr().err.split())
    assert main(leave(*words, "--init-missing", "res9")) == 2
    assert "no part 'res9' for --init-missing" in capsys.readouterr().err
    assert main(leave(*words, "--init-missing", "res4", "--lr", "1e-9", "--precise-norm", "0")) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"at random: res4 \(\d+ tensors\)", said)
    state = nl.load(place / "deep" / "run" / "model.safetensors").state_dict()
    weight = network.state_dict()["res3.block0.conv_a.weight"]
    torch.testing.assert_close(state["res3.block0.conv_a.weight"], weight)


def test_print_config_needs_no_data(capsys):
    found = resolved(capsys, "c2d_r50_32x2", "--lr", "0.5")
    assert (found["data"], found["out"], found["lr"]) == (None, None, 0.5)
    assert resolved(capsys, "--data", ".", "--out", ".")["data"] == str(Path.cwd())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch-size", "8"], "with batch_size 8, not 4: choose"),  # and no word of lr
        (["--norm", "frozen"], "with norm 'frozen', not 'batch': choose"),
        (["--model", "mask_rcnn_tiny_fpn"], "is a run of c2d_tiny_nl2, not of mask_rcnn_tiny_fpn"),
    ],
)
def test_resuming_complains_of_what_was_typed_alone(words, said, place, capsys):
    config = TrainConfig(data=place / "v", out=place / "run", model="c2d_tiny_nl2", batch_size=4)
    (place / "run").mkdir()
    (place / "run" / "config.json").write_text(config.resolve().as_json())
    assert main(["train", "--resume", "--out", "run", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
