"""Make docs/images/attention.png and look.png from a run of examples/demo.py (needs Chromium)."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from selenium import webdriver

import nonlocalnet as nl
from nonlocalnet.data.video.reader import decode_all

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SIZE = 1440, 860
sys.path.insert(0, str(ROOT / "examples"))
from demo import LOOKED_AT, attention_picture, center_of_square  # noqa: E402


@dataclass(frozen=True)
class Options:
    demo: Path = Path("demo")
    """Folder that examples/demo.py wrote."""
    weights: str = "runs/c2d_tiny_nl2_seed1/model.safetensors"
    """Of a network that learned the task, in that folder."""
    video: int = 4
    """Which of the test videos with squares of one color look.png shows."""


def main(options: Options) -> int:
    weights = options.demo / options.weights
    videos = sorted((options.demo / "videos" / "test" / "same").glob("*.mp4"))[:LOOKED_AT]
    figure, caption = attention_picture(weights, videos)
    figure.savefig(IMAGES / "attention.png")
    print(caption)
    video = videos[options.video]
    frames = decode_all(video)
    y, x = center_of_square(frames[-1])
    at = len(frames) - 1, x - 0.5, y - 0.5
    found = nl.look(nl.load(weights), video, at, block=1, title="two squares")
    print(video, found.prediction, found.reason)
    with tempfile.TemporaryDirectory() as folder:
        screenshot(found.save(Path(folder) / "look.html"), IMAGES / "look.png")
    return 0


def screenshot(page: Path, picture: Path) -> None:
    """Open a page in Chromium and save what it shows."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={SIZE[0]},{SIZE[1]}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.get(page.as_uri())
        while not driver.execute_script("return !!window.page?.took"):
            time.sleep(0.02)
        driver.save_screenshot(str(picture))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
