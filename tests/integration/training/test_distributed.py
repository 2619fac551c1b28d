"""Training by several processes, as torchrun starts them or by torchrun, with gloo on the CPU."""

import dataclasses
import os
import signal
import subprocess
import time

import pytest
import torch

import nonlocalnet as nl
from launching import Command, start_training, torchrun, wait_for_lines, words_of
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.runtime.log import read_metrics
from nonlocalnet.training.checkpoints import Checkpoints, lock
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.trainer import train


def start(processes, config, **options):
    return start_training(config, processes, **{"lr-steps": 3, "workers": 0} | options)


def losses(folder):
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl", "train")]


@pytest.fixture
def frozen(config, tmp_path):
    """A run whose loss does not depend on how clips are shared: norms frozen, nothing drops out."""
    torch.manual_seed(0)
    start = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="8x1", crop=32, norm="frozen")
    info = WeightsInfo(start.config, ["different", "same"])
    save_weights(start, tmp_path / "start.safetensors", info)
    return dataclasses.replace(
        config,
        clip="8x1",
        norm="frozen",
        dropout=0.0,
        batch_size=8,
        iterations=4,
        lr=0.01,
        lr_steps=(3,),
        log_every=1,
        val=None,
        init=str(tmp_path / "start.safetensors"),
    )


def finish(process):
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"accumulate": 2}, marks=pytest.mark.slow),  # in part: a dead process, below
        {"parallel": "fsdp", "accumulate": 2, "max-grad-norm": 0.1},
        pytest.param({"max-grad-norm": 0.1}, marks=pytest.mark.slow),
        pytest.param({"parallel": "fsdp", "recompute": ""}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_with_half_the_clips_each_compute_what_one_does(frozen, tmp_path, options):
    frozen = dataclasses.replace(frozen, max_grad_norm=options.get("max-grad-norm", 0.0))
    train(frozen)
    two = dataclasses.replace(frozen, out=tmp_path / "two")
    given = {"norm": "frozen", "dropout": 0.0, "init": frozen.init} | options
    out, _ = finish(start(2, two, **given))
    assert out.count("weights:") == 1
    assert losses(two.out) == pytest.approx(losses(frozen.out), rel=1e-5)
    one, other = (
        nl.load(config.out / "model.safetensors").state_dict() for config in (frozen, two)
    )
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_run_of_two_goes_on_in_one_and_the_other_way_round(frozen, tmp_path):
    train(frozen)
    two = dataclasses.replace(frozen, out=tmp_path / "two", iterations=2)
    given = {"norm": "frozen", "dropout": 0.0, "init": frozen.init, "parallel": "fsdp"}
    finish(start(2, two, **given))
    train(dataclasses.replace(two, iterations=3, resume=True))
    finish(start(2, dataclasses.replace(two, iterations=4), **given, resume=""))
    assert losses(two.out) == pytest.approx(losses(frozen.out), rel=1e-5)


@pytest.mark.slow
def test_processes_validate_together_and_batch_norms_are_averaged(config, tmp_path, videos):
    run = dataclasses.replace(config, out=tmp_path / "two", batch_size=4, iterations=4)
    _, err = finish(start(2, run, val=videos / "val", **{"eval-every": 2}))
    scores = read_metrics(run.out / "metrics.jsonl", "val")
    assert [line["iteration"] for line in scores] == [2, 4]
    assert err.count("12 training videos") == 1  # the first process speaks
    # 3 of 6 videos each: shares of six
    assert (scores[-1]["top1"] * 6 / 100) == pytest.approx(round(scores[-1]["top1"] * 6 / 100))


def test_clips_that_cannot_be_shared_evenly_are_refused(config, monkeypatch):
    monkeypatch.setattr("nonlocalnet.training.setup.world_size", lambda: 2)
    with pytest.raises(ValueError, match="batch_size 3 cannot be divided evenly among 2 processes"):
        train(dataclasses.replace(config, batch_size=3))
    with pytest.raises(ValueError, match="choose a multiple of 6"):
        train(dataclasses.replace(config, batch_size=4, accumulate=3))


def children(pid):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return [int(word) for word in listed.stdout.split()]


@pytest.mark.parametrize(
    "begin",
    [Command, pytest.param(torchrun, marks=pytest.mark.slow)],  # which ends both itself
)
def test_a_dead_process_ends_the_others_soon_and_resume_goes_on(frozen, tmp_path, begin):
    train(frozen)
    run = dataclasses.replace(frozen, out=tmp_path / "two", iterations=100_000)
    given = {"norm": "frozen", "dropout": 0.0, "init": frozen.init, "accumulate": 2}
    options = {"lr-steps": 3, "workers": 0, "checkpoint-every": 2}
    process = begin(words_of(run, **given, **options), 2)
    wait_for_lines(run, 4, process)
    os.kill(process.pids[1] if begin is Command else children(process.pid)[1], signal.SIGKILL)
    started = time.monotonic()
    process.communicate(timeout=100)
    assert process.returncode != 0
    assert time.monotonic() - started < 60
    # until then, each process learned from half of what one learns from
    assert losses(run.out)[:4] == pytest.approx(losses(frozen.out), rel=1e-5)
    saved = Checkpoints(run.out / "checkpoints", 3).load()
    assert saved["iteration"] >= 2
    more = TrainConfig.find(run.out)
    more = dataclasses.replace(more, iterations=saved["iteration"] + 1, resume=True)
    assert train(more).iteration == saved["iteration"] + 1


@pytest.mark.slow
def test_what_one_process_refuses_ends_all_at_once(config, tmp_path):
    config.out.mkdir(parents=True)
    with lock(config.out):  # the first process alone takes it
        process = start(2, config)
        begun = time.monotonic()
        _, err = process.communicate(timeout=100)
    assert time.monotonic() - begun < 60  # collectives wait for half an hour
    assert process.exitcodes == [2, 2]
    assert "process 0: process" in err
    assert "process 1: process 0 of this run failed: process" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_scheduler_ends_all_processes_with_a_checkpoint(config):
    run = dataclasses.replace(config, iterations=100_000, val=None)
    process = torchrun(words_of(run, workers=0), 2)
    wait_for_lines(run, 3, process)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1  # torchrun's own, whatever the processes give
    assert "interrupted at iteration" in err
    done = Checkpoints(run.out / "checkpoints", 3).load()["iteration"]
    assert done >= 3
    assert f"interrupted at iteration {done};" in err
