"""Runs of training as processes of their own."""

import os
import subprocess
import sys
import time


def wait_for_lines(config, count, process):
    """Wait until a run has written that many lines of numbers."""
    log = config.out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= count):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start_training(config, *launcher, **options):
    """Begin `nonlocalnet train` as a process, with the options of a config and others."""
    words = {
        "data": config.data,
        "out": config.out,
        "model": config.model,
        "clip": config.clip,
        "crop": 32,
        "short-side": "32 36",
        "batch-size": config.batch_size,
        "lr": config.lr,
        "iterations": config.iterations,
        "log-every": 1,
        "device": "cpu",
    } | options
    text = [w for key, value in words.items() for w in (f"--{key}", *str(value).split())]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "nonlocalnet", "train", *text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
