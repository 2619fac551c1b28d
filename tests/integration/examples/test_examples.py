"""Every example runs, in little; the demo and non-local means have tests of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
OWN_TESTS = {"demo", "non_local_means"}
NAMES = sorted({path.stem for path in EXAMPLES.glob("*.py")} - OWN_TESTS)


def test_there_are_examples_in_one_two_and_three_dimensions():
    assert {"sequence", "image_classifier", "video_resnet"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name, tmp_path):
    pytest.importorskip("timm")
    command = [sys.executable, EXAMPLES / f"{name}.py", "--smoke"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    if name != "sequence":
        assert "same answers as before: True" in done.stdout
