"""Nothing is lost: a run that is killed, interrupted or damaged goes on as if nothing had been."""

import dataclasses
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

import nonlocalnet as nl
from launching import start_training, wait_for_lines
from nonlocalnet.cli import main
from nonlocalnet.cli.train import read
from nonlocalnet.runtime.log import read_metrics
from nonlocalnet.training.checkpoints import Checkpoints, load_checkpoint, save_checkpoint
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.trainer import train

LOSSES = ("iteration", "loss", "accuracy", "lr")


def losses(config):
    lines = read_metrics(config.out / "metrics.jsonl", "train")
    return [[line[key] for key in LOSSES] for line in lines]


def scores(config):
    lines = read_metrics(config.out / "metrics.jsonl", "val")
    return [{key: line[key] for key in line.keys() - {"seconds"}} for line in lines]


def assert_same_state(one, other):
    a, b = (Checkpoints(config.out / "checkpoints", 3).load() for config in (one, other))
    for state in (a, b):
        for name in ("seconds", "config", "log"):  # which differ as a matter of course
            del state[name]
        state["window"] = [line[:2] for line in state["window"]]
    assert a.keys() == b.keys()
    assert a["optimizer"]["param_groups"] == b["optimizer"]["param_groups"]
    tensors = [*a["model"].items(), *a["ema"].items()]
    others = [*b["model"].items(), *b["ema"].items()]
    for (name, x), (_, y) in zip(tensors, others, strict=True):
        assert torch.equal(x, y), name
    for name, x in a["optimizer"]["state"].items():
        y = b["optimizer"]["state"][name]["momentum_buffer"]
        assert torch.equal(x["momentum_buffer"], y), name
    for key in a.keys() - {"model", "optimizer", "ema"}:
        assert a[key] == b[key], key


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 1, "accumulate": 2, "precision": "bf16", "precise_norm": 2, "recompute": True},
        {"ema": 0.9, "mixup": 0.4, "label_smoothing": 0.1, "schedule": "cosine", "warmup": 2},
        pytest.param({"precision": "fp16"}, marks=pytest.mark.slow),
    ],
)
def test_a_run_in_parts_equals_an_unbroken_one_bit_for_bit(config, tmp_path, options):
    # augmentation, dropout, an odd place for the break: in the middle of a log line and an epoch
    whole = dataclasses.replace(
        config, iterations=7, lr_steps=(4,), eval_every=3, checkpoint_every=1, **options
    )
    train(whole)
    parts = dataclasses.replace(whole, out=tmp_path / "parts")
    shutil.copytree(whole.out, parts.out)
    for file in Checkpoints(parts.out / "checkpoints", 3).files()[:2]:
        file.unlink()  # as if killed after 5
    (parts.out / "model.safetensors").unlink()
    train(dataclasses.replace(parts, resume=True))
    assert losses(parts) == losses(whole)
    assert scores(parts) == scores(whole)
    assert_same_state(parts, whole)
    for name in ("model.safetensors", "best.safetensors"):
        one, other = (nl.load(c.out / name).state_dict() for c in (whole, parts))
        assert all(torch.equal(one[key], other[key]) for key in one)


def damage_tensor(file, name="res3.block0.conv_a.weight"):
    """Change one bit of a tensor in a state."""
    raw = bytearray(file.read_bytes())
    place = raw.index(load_checkpoint(file)["model"][name].numpy().tobytes())
    raw[place + 1] ^= 4
    file.write_bytes(raw)


@pytest.mark.parametrize(
    ("damage", "why"),
    [(lambda file: os.truncate(file, 1000), ""), (damage_tensor, ": it is damaged")],
)
def test_a_damaged_newest_checkpoint_falls_back(copied, capsys, damage, why):
    newest = copied.out / "checkpoints" / "00000006.pt"
    expected = load_checkpoint(newest)["model"]
    damage(newest)
    train(dataclasses.replace(copied, resume=True))
    said = " ".join(capsys.readouterr().err.split())
    assert f"00000006.pt is not a readable checkpoint{why}" in said
    assert "resumed at iteration 5" in said
    found = load_checkpoint(newest)["model"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_resume_without_a_run_begins_one(config, capsys):
    assert train(dataclasses.replace(config, iterations=1, resume=True)).iteration == 1
    assert "there is no run in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"model": "c2d_tiny"}, {"lr": 0.1}, {"clip": "4x1"}, {"seed": 1}]
)
def test_a_run_goes_on_with_its_own_options(unbroken, change):
    name, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=f"{name} {value!r}, not"):
        train(dataclasses.replace(unbroken, iterations=7, resume=True, **change))


def test_a_run_goes_on_with_its_own_videos(unbroken, videos):
    with pytest.raises(ValueError, match="are not those"):
        train(dataclasses.replace(unbroken, data=videos / "val", val=None, resume=True))


def test_a_cosine_keeps_its_length(config):
    run = dataclasses.replace(config, iterations=2, val=None, schedule="cosine")
    train(run)
    with pytest.raises(ValueError, match="iterations 4, not 2"):
        train(dataclasses.replace(run, iterations=4, resume=True))


def test_what_does_not_change_the_result_may_change(copied):
    more = dataclasses.replace(copied, iterations=7, resume=True, workers=1, log_every=2)
    assert train(more).iteration == 7


def test_resuming_a_finished_run_does_not_rewrite_its_options(copied):
    train(dataclasses.replace(copied, resume=True, log_every=9))
    assert json.loads((copied.out / "config.json").read_text())["log_every"] == 1


def test_options_survive_their_file(config):
    config.out.mkdir()
    (config.out / "config.json").write_text(config.resolve().as_json())
    assert TrainConfig.find(config.out) == config.resolve()
    (config.out / "config.json").write_text('{"data": 1}')
    with pytest.raises(ValueError, match=r"config\.json does not hold the options of a run"):
        TrainConfig.find(config.out)


def test_out_that_is_a_file(config):
    config.out.write_text("")
    with pytest.raises(ValueError, match="is a file: out names the folder"):
        train(config)


# SIGTERM: below, in the middle of precise norms
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupt_leaves_a_checkpoint_and_resume_ends_the_run(config, number):
    process = start_training(config, iterations=100_000, workers=1)
    wait_for_lines(config, 1, process)
    os.killpg(process.pid, number)  # Ctrl-C reaches the workers too
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130, err
    assert "interrupted at iteration" in err
    assert "Traceback" not in err
    done = Checkpoints(config.out / "checkpoints", 1).load()["iteration"]
    assert done >= 1
    last = dataclasses.replace(TrainConfig.find(config.out), resume=True, iterations=done + 1)
    assert train(last).iteration == done + 1


def test_kill_at_any_moment_then_resume(config, tmp_path):
    whole = dataclasses.replace(config, out=tmp_path / "whole", iterations=16, val=None)
    whole = dataclasses.replace(whole, log_every=1, workers=1, eval_every=None, checkpoint_every=4)
    train(whole)
    killed = dataclasses.replace(whole, out=tmp_path / "killed")
    process = start_training(killed, **{"checkpoint-every": 4, "workers": 1})
    wait_for_lines(killed, random.Random(0).randint(3, 8), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    train(dataclasses.replace(killed, resume=True))
    assert losses(killed) == losses(whole)
    assert_same_state(killed, whole)


class Killed(BaseException):
    """What no handler of the run hears, as a kill."""


@pytest.mark.parametrize(
    ("place", "call"),
    [
        ("training.checkpoints.save_checkpoint", 1),  # the first one: nothing to go on from
        pytest.param("training.checkpoints.save_checkpoint", 2, marks=pytest.mark.slow),
        ("training.classification.evaluate", 2),
        ("training.trainer.save_weights", 3),  # of the last checkpoint
        pytest.param("training.checkpoints.save_checkpoint", 4, marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_a_nasty_moment_leaves_no_trace(
    config, unbroken, tmp_path, monkeypatch, place, call
):
    killed = dataclasses.replace(config, log_every=1, out=tmp_path / "killed")
    module, _, name = f"nonlocalnet.{place}".rpartition(".")
    plain = getattr(sys.modules[module], name)
    calls = []

    def kill(*given, **named):
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return plain(*given, **named)

    monkeypatch.setattr(sys.modules[module], name, kill)
    with pytest.raises(Killed):
        train(killed)
    monkeypatch.setattr(sys.modules[module], name, plain)
    (killed.out / ".best.safetensors.a1b2c3d4").write_text("half")  # as a real kill leaves it
    train(dataclasses.replace(killed, resume=True))
    assert losses(killed) == losses(unbroken)
    assert scores(killed) == scores(unbroken)
    assert_same_state(killed, unbroken)
    for name in ("model.safetensors", "best.safetensors"):
        one, other = (nl.load(c.out / name).state_dict() for c in (unbroken, killed))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert {p.name for p in killed.out.iterdir()} == {p.name for p in unbroken.out.iterdir()}


def test_a_run_without_its_checkpoints_is_not_overwritten(copied):
    for file in (copied.out / "checkpoints").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="holds a run already"):
        train(copied)
    with pytest.raises(ValueError, match=r"has weights but no checkpoints.*init="):
        train(dataclasses.replace(copied, resume=True))


def test_checkpoints_of_before_without_their_options(config):
    train(dataclasses.replace(config, iterations=1))
    (config.out / "config.json").unlink()
    (state,) = (config.out / "checkpoints").iterdir()
    saved = load_checkpoint(state)
    del saved["config"]
    save_checkpoint(state, saved)
    with pytest.raises(ValueError, match=r"lacks config\.json.*--print-config"):
        train(dataclasses.replace(config, resume=True))
    with pytest.raises(ValueError, match=r"no run in .*; pass --data to start one"):
        read(["--resume", "--out", str(config.out)])


def test_unreadable_videos_of_earlier_parts_are_told(config, tmp_path, videos):
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    file = tmp_path / "list.txt"
    good = sorted((videos / "train").rglob("*.mp4"))[:9]
    file.write_text("".join(f"{path} 0\n" for path in [*good, broken]))
    run = dataclasses.replace(config, data=file, val=None, iterations=5)
    train(run)
    assert (config.out / "unreadable.txt").read_text() == f"{broken}\n"
    train(dataclasses.replace(run, iterations=6, resume=True, batch_size=4))
    assert read_metrics(config.out / "metrics.jsonl", "train")[-1]["unreadable"] == 1


def test_precise_norms_are_left_when_asked_to_end(config):
    process = start_training(
        config, **{"precise-norm": 1_000_000, "eval-every": 1_000, "checkpoint-every": 1}
    )
    wait_for_lines(config, 1, process)  # the next thing is a pass over a million batches
    process.terminate()
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130, err
    assert "interrupted at iteration 1;" in err
    state = Checkpoints(config.out / "checkpoints", 1).load()
    assert state["settled"] == 0  # a run that goes on computes them again


def test_a_run_goes_on_from_another_working_directory(config, tmp_path, videos, monkeypatch):
    monkeypatch.chdir(videos)
    weights = train(dataclasses.replace(config, out=tmp_path / "start", iterations=1, val=None))
    monkeypatch.chdir(tmp_path)
    relative = dataclasses.replace(
        config, data=Path(os.path.relpath(videos / "train")), val=None, iterations=1
    )
    init = os.path.relpath(weights.weights)
    train(dataclasses.replace(relative, init=init))
    monkeypatch.chdir("/")
    saved = TrainConfig.find(config.out)
    assert train(dataclasses.replace(saved, iterations=2, resume=True)).iteration == 2


@pytest.mark.parametrize("bad_videos", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_an_error_ends_the_run_though_processes_decode(config, tmp_path, bad_videos):
    data = shutil.copytree(config.data, tmp_path / "data")
    for path in sorted((data / "same").iterdir())[:bad_videos]:
        path.write_text("no video")
    config = dataclasses.replace(config, data=data, lr=0.1 if bad_videos else 1e30)
    process = start_training(config, iterations=50, workers=2)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2, err
    assert ("cannot be read, more than" if bad_videos else "the loss is") in err


def test_a_file_that_is_no_state_of_a_run_is_not_taken_for_one(config, capsys):
    run = dataclasses.replace(config, iterations=1, val=None)
    train(run)
    save_checkpoint(config.out / "checkpoints" / "00000009.pt", {"model": {}})
    train(dataclasses.replace(run, iterations=2, resume=True))
    said = " ".join(capsys.readouterr().err.split())
    assert "00000009.pt is no state of a training run: it lacks optimizer; trying the one" in said
    assert "resumed at iteration 1" in said


def test_a_run_without_an_intact_state_is_not_gone_on_with(config):
    run = dataclasses.replace(config, iterations=1, val=None)
    train(run)
    damage_tensor(config.out / "checkpoints" / "00000001.pt", "fc.weight")
    with pytest.raises(ValueError, match=r"no checkpoint of .* can be read.*it is damaged"):
        train(dataclasses.replace(run, iterations=2, resume=True))


ODD = [
    "7",
    "null",
    "NaN",
    "[1]",
    '"text"',
    '{"kind": [1], "iteration": 1}',
    '{"kind": "train", "iteration": "1"}',
    '{"kind": "train", "iteration": null}',
    '{"kind": "train", "iteration": NaN}',
    '{"kind": "train", "iteration": true}',
    f'{{"kind": "train", "iteration": 1{"0" * 400}}}',
    "[" * 100_000,
    "9" * 5_000,
    '{"kind": "train", "iterat',
    "",
]


@pytest.mark.parametrize("earlier_version", [False, True])
def test_lines_of_numbers_that_are_damaged_come_back_or_are_told(config, capsys, earlier_version):
    run = dataclasses.replace(config, iterations=2, log_every=1, val=None)
    train(run)
    log, state = config.out / "metrics.jsonl", config.out / "checkpoints" / "00000002.pt"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0][:20], *ODD, lines[1]]) + "\n")  # the first one is cut
    if earlier_version:
        saved = load_checkpoint(state)
        torch.save({"format": 1} | {k: saved[k] for k in saved.keys() - {"log", "config"}}, state)
    train(dataclasses.replace(run, iterations=3, resume=True))
    said = " ".join(capsys.readouterr().err.split())
    found = [line["iteration"] for line in read_metrics(log, "train")]
    if earlier_version:
        assert f"{len(ODD) + 1} damaged lines are left out" in said
        assert found == [2, 3]
    else:
        assert "metrics.jsonl lacked lines or had others: it is written again" in said
        assert log.read_text().splitlines()[:2] == lines
        assert found == [1, 2, 3]


def test_metrics_that_are_gone_come_back(config, capsys):
    run = dataclasses.replace(config, iterations=2, log_every=1, val=None)
    train(run)
    before = losses(config)
    (config.out / "metrics.jsonl").unlink()
    train(dataclasses.replace(run, iterations=3, resume=True))
    assert "it is written again" in " ".join(capsys.readouterr().err.split())
    assert losses(config)[:2] == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "config.json is missing"),
        ('{"data": "/da', "config.json is damaged"),
        ("[" * 100_000, "config.json is damaged"),
        ("[1]", "config.json is damaged"),
        ("lr", "says lr 0.5, not 0.05"),
    ],
)
def test_options_that_are_damaged_come_from_the_state(config, capsys, text, said):
    train(dataclasses.replace(config, iterations=1, val=None))
    file = config.out / "config.json"
    before = json.loads(file.read_text())
    file.unlink()
    if text is not None:  # a changed digit is valid JSON
        file.write_text(json.dumps(before | {"lr": 0.5}) if text == "lr" else text)
    assert main(["train", "--resume", "--out", str(config.out), "--iterations", "2"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert said in told
    assert "the options of the state of iteration 1 are taken" in told
    after = json.loads(file.read_text())
    assert {key for key in before if before[key] != after[key]} <= {"iterations", "resume"}
