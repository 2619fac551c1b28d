"""The scripts for Slurm in examples/, with programs that stand for Slurm's."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
FAKES = {
    "scontrol": """
if [ "$1" = show ]; then printf "a1\\na2\\n"; exit; fi
echo "$@" > "$HERE/requeued"
""",
    # as srun, it passes SIGTERM on and waits for the end
    "srun": """
trap 'echo > "$HERE/saved"; exit 1' TERM
printf "%s\\n" "$@" > "$HERE/called.part"
mv "$HERE/called.part" "$HERE/called"
if [ "$ENDS" != by-signal ]; then exit "$ENDS"; fi
while true; do sleep 0.05; done
""",
}
TRAIN = ["i3d_r50_nl5_32x2", "--data", "a b", "--out", "runs/i3d"]
PREDICT = ["a b", "--weights", "w"]
SCRIPTS = {  # the words that each is given, and the job that it asks to be queued again
    "slurm.sh": (TRAIN, "7"),
    "slurm_predict.sh": (["16", "classes", *PREDICT], "5_3"),
}


def start(folder, script, ends):
    for name, text in FAKES.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "a[1-2]"}
    job |= {"SLURM_GPUS_ON_NODE": "8", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "HERE": str(folder), "ENDS": ends}
    words = ["bash", str(EXAMPLES / script), *SCRIPTS[script][0]]
    return subprocess.Popen(words, env=os.environ | own | job)


def test_all_scripts_are_tested_and_are_bash():
    assert {path.name for path in EXAMPLES.glob("*.sh")} == set(SCRIPTS)
    for name in SCRIPTS:
        subprocess.run(["bash", "-n", str(EXAMPLES / name)], check=True)


@pytest.mark.parametrize("ends", ["0", "3"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_job_that_ends_by_itself_is_not_queued_again(tmp_path, script, ends):
    assert start(tmp_path, script, ends).wait(timeout=20) == int(ends)
    assert not (tmp_path / "requeued").exists()


def test_training_starts_torchrun_on_each_machine(tmp_path):
    assert start(tmp_path, "slurm.sh", "0").wait(timeout=20) == 0
    called = (tmp_path / "called").read_text().splitlines()
    place = called.index("torchrun")
    assert called[place + 1 : place + 5] == ["--nnodes", "2", "--nproc-per-node", "8"]
    assert called[called.index("--rdzv-endpoint") + 1] == "a1:29500"
    assert called[called.index("-m") :] == ["-m", "nonlocalnet", "train", *TRAIN, "--resume"]


def test_a_task_of_an_array_predicts_its_part(tmp_path):
    assert start(tmp_path, "slurm_predict.sh", "0").wait(timeout=20) == 0
    called = (tmp_path / "called").read_text().splitlines()
    own = ["--part", "3/16", "--out", "classes/3-of-16.csv"]
    assert called == ["nonlocalnet", "predict", *PREDICT, *own]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_preempted_job_is_queued_again(tmp_path, script):
    job = start(tmp_path, script, "by-signal")
    end = time.monotonic() + 20
    while not (tmp_path / "called").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == 1
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "requeued").read_text() == f"requeue {SCRIPTS[script][1]}\n"
