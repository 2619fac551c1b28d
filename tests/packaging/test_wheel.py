"""The wheel works in an empty environment, alone and with each extra: `make test-wheel`."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
UV = [sys.executable, "-m", "uv"]

# What a user does first after installing, with the extra alone.
CORE = """
import sys, torch, nonlocalnet as nl
assert "site-packages" in nl.__file__
block = nl.NonLocalBlock(8)
x = torch.randn(1, 8, 2, 4, 4)
assert torch.equal(block(x), x)
model = nl.create_model("c2d_tiny_nl2", num_classes=3)
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
save_weights(model, "w.safetensors", WeightsInfo(config=model.config, classes=list("abc")))
again = nl.load("w.safetensors")
assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters()))
"""
VIDEO = """
from pathlib import Path
from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.cli import main
write_same_color(Path("videos"), 4, 0)
def run(*words):
    assert main([*words, "--weights", "w.safetensors", "--device", "cpu"]) == 0
assert main(["data", "check", "videos"]) == 0
run("predict", "videos", "--out", "p.csv")
run("look", str(next(Path("videos").rglob("*.mp4"))), "--out", "look.html", "look.png")
assert Path("look.html").stat().st_size > 10_000
"""
USES = {
    "": CORE,
    "video": CORE + VIDEO,
    "torchvision": CORE + "nl.create_model('torchvision/r3d_18', num_classes=3)",
    "coco": CORE + "nl.create_model('mask_rcnn_tiny_fpn_nl1')\nnl.detect",
    "explore": CORE + "from nonlocalnet.explorer import server",
    "hub": CORE + "from nonlocalnet.checkpoints.hub import HubNetwork\n"
    "HubNetwork.of(model).save_pretrained('hub'); HubNetwork.from_pretrained('hub')",
    "tensorboard": CORE
    + "from torch.utils.tensorboard import SummaryWriter\nSummaryWriter('logs').close()",
    "remote": CORE + "import fsspec",
    "parquet": CORE + VIDEO.replace("p.csv", "p.parquet"),
}


@pytest.fixture(scope="session")
def dist(tmp_path_factory) -> Path:
    """Build the sdist, and the wheel from it as installers do."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    subprocess.run([*UV, "build", "--quiet", "--out-dir", ROOT / "dist", ROOT], check=True)
    return ROOT / "dist"


def test_each_extra_is_tried():
    assert set(USES) == {"", *EXTRAS}


@pytest.mark.parametrize("extra", USES)
def test_the_wheel_works_in_an_empty_environment(dist, extra, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [*UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True
    )
    (wheel,) = dist.glob("*.whl")
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    subprocess.run([*UV, "pip", "install", "--quiet", "--python", python, what], check=True)
    (tmp_path / "work").mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    subprocess.run([python, "-c", USES[extra]], cwd=tmp_path / "work", env=environment, check=True)


def test_the_sdist_holds_what_the_repository_holds(dist):
    import tarfile

    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.check_output(["git", "ls-files", "src", "tests"], cwd=ROOT, text=True)
    assert set(tracked.split()) <= names
