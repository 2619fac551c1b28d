import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nonlocalnet as nl
from nonlocalnet.checkpoints.load import read_info
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import main
from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.evaluation import metrics
from nonlocalnet.evaluation.results import find_intervals
from nonlocalnet.evaluation.views import identify_videos
from nonlocalnet.inspection.curves import panels
from nonlocalnet.runtime.log import read_metrics
from nonlocalnet.training.learner import Learner
from nonlocalnet.training.trainer import train


def test_a_run_leaves_everything_that_is_needed(config):
    result = train(config)
    assert result.iteration == 6
    assert not result.interrupted
    lines = read_metrics(config.out / "metrics.jsonl", "train")
    assert [line["iteration"] for line in lines] == [2, 4, 6]
    assert [line["lr"] for line in lines] == pytest.approx([0.05, 0.005, 0.0005])
    scores = read_metrics(config.out / "metrics.jsonl", "val")
    assert [line["iteration"] for line in scores] == [3, 6]
    assert json.loads((config.out / "config.json").read_text())["model"] == "c2d_tiny_nl2"
    info = read_info(result.weights)
    assert info.classes == ["different", "same"]
    assert info.short_side == 32
    assert info.facts["validation"] == result.scores
    training, validation = (
        identify_videos(read_dataset(x).train) for x in (config.data, config.val)
    )
    assert info.facts["trained_on"] == training
    assert "chosen_on" not in info.facts
    best = read_info(config.out / "best.safetensors")
    assert best.facts["chosen_on"] == validation
    assert {path.name for path in config.out.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "model.safetensors",
        "best.safetensors",
        ".lock",
    }
    names = sorted(path.name for path in (config.out / "checkpoints").iterdir())
    assert names == ["00000003.pt", "00000006.pt"]


def test_a_metric_is_added_in_one_place(config, monkeypatch, tmp_path, capsys):
    """Validation computes it, `plot` and `runs` show it, a test has its interval."""
    share = metrics.Metric(
        *("share_same", "share of 'same'", lambda p, target: (target == 1).double().mean().item()),
        main=True,
        proportion=True,
    )
    monkeypatch.setattr(metrics, "METRICS", {"share_same": share, **metrics.METRICS})
    drawn = []

    def draw(lines, xlabel):
        drawn.extend(lines)
        return panels(lines, xlabel=xlabel)

    monkeypatch.setattr("nonlocalnet.inspection.curves.panels", draw)
    result = train(dataclasses.replace(config, iterations=1, log_every=1))
    assert result.scores["share_same"] == 50.0
    assert read_metrics(config.out / "metrics.jsonl", "val")[-1]["share_same"] == 50.0
    assert main(["plot", str(config.out), "--out", str(tmp_path / "c.png")]) == 0
    assert drawn == ["training loss", "validation share of 'same', %"]
    assert main(["runs", str(config.out)]) == 0
    assert "50.0 share_same" in capsys.readouterr().out
    low, high = find_intervals(result.scores, 6)["share_same"]
    assert low < 50 < high


def test_training_lowers_the_loss(config):
    train(dataclasses.replace(config, iterations=60, lr=0.1, dropout=0.0, log_every=60))
    # 12 videos can be learned by heart; guessing costs ln 2 = 0.69 (mean over the last 50 updates)
    assert read_metrics(config.out / "metrics.jsonl", "train")[-1]["loss"] < 0.65


def test_the_same_seed_gives_the_same_network(config, unbroken):
    first, second = nl.load(train(config).weights), nl.load(unbroken.out / "model.safetensors")
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_run_is_not_overwritten(unbroken):
    with pytest.raises(ValueError, match=r"holds a run already.*resume=True"):
        train(unbroken)


def test_init_takes_weights_and_a_new_classifier(config, tmp_path, videos):
    weights = train(dataclasses.replace(config, iterations=2, val=None)).weights
    records = sorted((videos / "train").rglob("*.mp4"))
    file = tmp_path / "list.txt"
    file.write_text("".join(f"{path} {i % 3}\n" for i, path in enumerate(records)))
    fresh = dataclasses.replace(
        config, data=file, val=None, out=tmp_path / "b", init=str(weights), iterations=1, lr=1e-12
    )
    model, source = nl.load(train(fresh).weights), nl.load(weights)
    assert model.fc.out_features == 3
    torch.testing.assert_close(model.conv1.weight, source.conv1.weight)


def test_the_input_is_normalized_as_the_weights_to_start_from(config, tmp_path, monkeypatch):
    source = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="4x2", crop=32)
    info = WeightsInfo(
        source.config, ["different", "same"], mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
    )
    save_weights(source, tmp_path / "start.safetensors", info)
    seen = []
    monkeypatch.setattr(
        "nonlocalnet.data.dataset.normalize",
        lambda frames, mean, std: seen.append((mean, std)) or frames.float(),
    )
    run = dataclasses.replace(config, init=str(tmp_path / "start.safetensors"), iterations=1)
    weights = train(run).weights
    assert set(seen) == {(info.mean, info.std)}  # of training and validation
    assert (read_info(weights).mean, read_info(weights).std) == (info.mean, info.std)
    train(dataclasses.replace(run, iterations=2, resume=True))  # it goes on so
    assert set(seen) == {(info.mean, info.std)}
    assert read_info(weights).mean == info.mean


@pytest.mark.slow
def test_a_video_network_starts_from_an_image_classifier(config, tmp_path):
    import torchvision

    torch.manual_seed(0)
    classifier = torchvision.models.resnet50(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "resnet50-00000000.pth")
    run = dataclasses.replace(
        config, model="i3d_r50_nl1", init=str(tmp_path / "resnet50-00000000.pth"), batch_size=1
    )
    result = train(dataclasses.replace(run, iterations=1, lr=1e-12, val=None))
    model = nl.load(result.weights)
    weight = classifier.layer1[0].conv1.weight.unsqueeze(2) / 3
    torch.testing.assert_close(model.res2.block0.conv_a.weight, weight.expand(-1, -1, 3, -1, -1))
    assert model.info.mean == (0.485, 0.456, 0.406)


def test_multi_label_from_a_charades_table(config, tmp_path, videos):
    names = [path.stem for path in (videos / "train" / "same").glob("*.mp4")]
    table = tmp_path / "labels.csv"
    rows = [f"{name},1.0,{'c000 0 1;c002 0 1' if i % 2 else ''}" for i, name in enumerate(names)]
    table.write_text("\n".join(["id,length,actions", *rows]) + "\n")
    result = train(
        dataclasses.replace(config, data=table, val=table, root=videos / "train" / "same")
    )
    assert set(result.scores) == {"map"}
    assert nl.load(result.weights).info.multi_label


def test_a_table_is_multi_label_even_where_each_video_has_one(config, tmp_path, videos):
    table = tmp_path / "labels.csv"
    names = [path.stem for path in (videos / "train" / "same").glob("*.mp4")]
    table.write_text("\n".join(["id,actions", *(f"{name},c001 0 1" for name in names)]) + "\n")
    one = dataclasses.replace(config, data=table, root=videos / "train" / "same", val=None)
    assert nl.load(train(dataclasses.replace(one, iterations=1)).weights).info.multi_label


def test_unreadable_videos_are_replaced_counted_and_limited(config, tmp_path, videos):
    good = sorted((videos / "train").rglob("*.mp4"))
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    file = tmp_path / "list.txt"
    file.write_text("".join(f"{path} 0\n" for path in [*good, broken]))
    training = dataclasses.replace(config, data=file, val=None, iterations=8)
    train(training)
    assert read_metrics(config.out / "metrics.jsonl", "train")[-1]["unreadable"] == 1
    assert (config.out / "unreadable.txt").read_text() == f"{broken}\n"
    strict = dataclasses.replace(training, out=tmp_path / "strict", max_bad=0.01)
    with pytest.raises(RuntimeError, match=r"1 of 13 videos cannot be read.*broken\.mp4"):
        train(strict)


def test_an_unreadable_validation_video_does_not_end_the_run(config, tmp_path, videos):
    good = sorted((videos / "val").rglob("*.mp4"))
    file = tmp_path / "val.txt"
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"")
    file.write_text("".join(f"{path} 0\n" for path in [*good, broken]))
    lists = tmp_path / "train.txt"
    lists.write_text("".join(f"{p} {i % 2}\n" for i, p in enumerate(good)))
    train(dataclasses.replace(config, data=lists, val=file, iterations=1))
    assert read_metrics(config.out / "metrics.jsonl", "val")[-1]["unreadable"] == 1


def test_missing_videos_are_left_out_and_limited(config, tmp_path, videos, capsys):
    good = sorted((videos / "train").rglob("*.mp4"))
    file = tmp_path / "list.txt"
    file.write_text("".join(f"{path} {i % 2}\n" for i, path in enumerate(good)) + "gone.mp4 1\n")
    some = dataclasses.replace(config, data=file, val=None, iterations=1)
    train(some)
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 13 listed videos are missing, gone.mp4 for one; they are left out" in said
    with pytest.raises(ValueError, match=r"1 of 13 .*more than max_bad = 0.01.*root"):
        train(dataclasses.replace(some, out=tmp_path / "strict", max_bad=0.01))


def test_a_loss_that_is_not_finite_ends_with_a_word_on_the_rate(config):
    with pytest.raises(RuntimeError, match="lower lr"):
        train(dataclasses.replace(config, lr=1e30, iterations=50, val=None))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("iterations", 0, "iterations must be at least 1"),
        ("lr", -1.0, "lr must be above 0"),
        ("workers", -1, "workers must be at least 0"),
        ("max_grad_norm", -1.0, "max_grad_norm must be at least 0"),
        ("precision", "fp8", "precision must be one of"),
        ("eval_every", 0, "eval_every must be at least 1"),
    ],
)
def test_wrong_options(config, field, value, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(config, **{field: value})


def test_bf16_trains(config):
    result = train(dataclasses.replace(config, precision="bf16", iterations=2, val=None))
    assert result.iteration == 2


def test_a_run_shorter_than_its_log_interval_leaves_a_line(config):
    train(dataclasses.replace(config, iterations=1, log_every=100, val=None))
    assert len(read_metrics(config.out / "metrics.jsonl", "train")) == 1


def test_recomputing_does_not_go_with_compiling(config):
    with pytest.raises(ValueError, match="recompute does not work with compile"):
        dataclasses.replace(config, recompute=True, compile=True)


def test_weights_that_are_no_numbers_are_not_kept(config, monkeypatch):
    def step(learner, rate):
        if learner.updates == 3:
            learner.network.fc.bias.data[0] = float("inf")
        learner.updates += 1

    monkeypatch.setattr(Learner, "updates", 0, raising=False)
    monkeypatch.setattr(Learner, "step", step)
    with pytest.raises(RuntimeError, match="the weights are not finite at iteration 4: lower lr"):
        train(dataclasses.replace(config, checkpoint_every=2))
    assert [path.name for path in (config.out / "checkpoints").iterdir()] == ["00000002.pt"]


def test_validation_videos_that_cannot_be_read_are_refused_before_training(config, tmp_path):
    for name in ("different", "same"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "a.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"the first 2 validation videos cannot be read: .*a\.mp4"):
        train(dataclasses.replace(config, val=tmp_path / "val"))


def test_the_default_schedule_of_the_shortest_run_begins_at_the_rate(config):
    assert min(dataclasses.replace(config, iterations=1).resolve().lr_steps) == 1


def test_a_video_is_looked_at_with_every_validation(config, videos):
    video = next((videos / "val").rglob("*.mp4"))
    train(dataclasses.replace(config, look=video))
    pictures = sorted((config.out / "look").iterdir())
    assert [path.name for path in pictures] == ["00000003.png", "00000006.png"]
    before, after = (np.asarray(Image.open(path)).astype(int) for path in pictures)
    assert before.shape == after.shape
    assert np.abs(before - after).max() > 0  # the title at least


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"look": Path("gone.mp4")}, "no file or folder at .*gone.mp4: name a video"),
        ({"model": "c2d_tiny"}, "c2d_tiny has no non-local block for look"),
        ({"look_at": (0, 99, 0)}, "at must be a"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(config, videos, options, said):
    video = next((videos / "val").rglob("*.mp4"))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        train(dataclasses.replace(config, **({"look": video} | options)))
