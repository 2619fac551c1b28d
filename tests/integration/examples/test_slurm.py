"""examples/slurm.sh with programs that stand for Slurm's."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "examples" / "slurm.sh"
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


def start(folder, ends):
    for name, text in FAKES.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "a[1-2]"}
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "HERE": str(folder), "ENDS": ends}
    words = ["i3d_r50_nl5_32x2", "--data", "a b", "--out", "runs/i3d"]
    return subprocess.Popen(
        ["bash", str(SCRIPT), *words], env=os.environ | own | job | {"SLURM_GPUS_ON_NODE": "8"}
    )


def test_the_script_is_bash():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


@pytest.mark.parametrize("ends", ["0", "3"])
def test_a_job_that_ends_by_itself_is_not_queued_again(tmp_path, ends):
    assert start(tmp_path, ends).wait(timeout=20) == int(ends)
    assert not (tmp_path / "requeued").exists()
    called = (tmp_path / "called").read_text().splitlines()
    place = called.index("torchrun")
    assert called[place + 1 : place + 5] == ["--nnodes", "2", "--nproc-per-node", "8"]
    assert called[called.index("--rdzv-endpoint") + 1] == "a1:29500"
    train = ["-m", "nonlocalnet", "train", "i3d_r50_nl5_32x2", "--data", "a b", "--out", "runs/i3d"]
    assert called[called.index("-m") :] == [*train, "--resume"]


def test_a_preempted_job_saves_and_is_queued_again(tmp_path):
    job = start(tmp_path, "by-signal")
    end = time.monotonic() + 20
    while not (tmp_path / "called").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == 1
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
