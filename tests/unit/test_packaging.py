"""What torch.hub, the workflows and the index read."""

import re
import runpy
from pathlib import Path

import pytest
import torch
import yaml

import nonlocalnet as nl

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_torch_hub_creates_any_network():
    entries = runpy.run_path(str(ROOT / "hubconf.py"))
    for name in ("load", "NonLocalBlock", "i3d_r50_nl5", "slowfast_8x8_r50"):
        assert callable(entries[name])
    model = torch.hub.load(str(ROOT), "c2d_tiny_nl2", source="local", num_classes=3)
    assert model.config == nl.create_model("c2d_tiny_nl2", num_classes=3).config


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_that_exist(path):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    jobs = yaml.safe_load(path.read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    made = {word for run in commands for word in re.findall(r"make ([a-z-]+)", run)}
    assert made <= set(targets)
    assert all((ROOT / run).is_file() for run in commands if run.startswith(".ci/"))
