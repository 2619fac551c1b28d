"""Every example runs, in little; the demo and non-local means have tests of their own."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[3] / "examples"
OWN_TESTS = {"demo", "non_local_means"}
NAMES = sorted({path.stem for path in EXAMPLES.glob("*.py")} - OWN_TESTS)


def test_there_are_examples_in_one_two_and_three_dimensions():
    assert {"sequence", "image_classifier", "video_resnet"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip("lightning" if name == "lightning_module" else "timm")
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--smoke"])
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out
    assert said
    if name not in ("sequence", "lightning_module"):
        assert "same answers as before: True" in said
