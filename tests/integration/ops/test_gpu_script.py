"""benchmarks/gpu.py, which nobody can run here on a GPU, with small sizes on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_every_part_runs_without_a_gpu_too(tmp_path):
    words = ["benchmarks/gpu.py", "--out", tmp_path, "--device", "cpu", "--smoke-test"]
    own = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=os.environ | own, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left_out_for_time"] == 0
    for part in ("checks", "softmax", "linear", "networks"):
        assert found[part], part
        assert [row for row in found[part] if "error" in row and "right" not in row] == []
    assert all(row["right"] for row in found["checks"])
