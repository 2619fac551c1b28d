"""Make the pictures of the documents.

    python benchmarks/pictures.py --demo demo           # attention.png and look.png; needs Chromium
    python benchmarks/pictures.py --clips FOLDER --classifier resnet50.pth

The second one makes look_video.jpg and follow_video.jpg from a clip of HMDB51 (CC BY 4.0; Kuehne et
al., HMDB: a large video database for human motion recognition, ICCV 2011) and an ImageNet
ResNet-50. Nothing is trained for them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from selenium import webdriver

import nonlocalnet as nl
from nonlocalnet.checkpoints.zoo import find_weights
from nonlocalnet.inspection.follow import follow
from nonlocalnet.inspection.follow_files import draw
from nonlocalnet.inspection.geometry import interpolation
from nonlocalnet.inspection.heat import lifted, query_of
from nonlocalnet.inspection.look import Look

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SIZE = 1440, 860
QUALITY = 88
CLIP = "tv_hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"
AT = (0, 79.0, 107.0)  # of the man's shirt
TROUSERS = 76.0, 135.0
CUT = 40, 55, 260, 190  # left, top, right and bottom of what is shown, pixels
GLOW = LinearSegmentedColormap.from_list("glow", [(1, 0.69, 0), (1, 0.45, 0), (0.9, 0.1, 0.1)])
sys.path.insert(0, str(ROOT / "examples"))
from demo import LOOKED_AT, attention_picture, center_of_square, read_clip  # noqa: E402


@dataclass(frozen=True)
class Options:
    demo: Path = Path("demo")
    """Folder that examples/demo.py wrote."""
    weights: str = "best.safetensors"
    """Of a network that learned the task, in that folder."""
    video: int = 4
    """Which of the test videos with squares of one color look.png shows."""
    clips: Path | None = None
    """Folder with CLIP."""
    classifier: Path = Path("resnet50_imagenet")
    """Image classifier, a file or a release."""


def main(options: Options) -> int:
    if options.clips is not None:
        draw_video(options.clips / CLIP, find_weights(options.classifier))
        return 0
    weights = options.demo / options.weights
    videos = sorted((options.demo / "videos" / "test" / "same").glob("*.mp4"))[:LOOKED_AT]
    figure, caption = attention_picture(weights, videos)
    figure.savefig(IMAGES / "attention.png")
    print(caption)
    video = videos[options.video]
    frames = read_clip(video)
    y, x = center_of_square(frames[-1])
    at = len(frames) - 1, x - 0.5, y - 0.5
    found = nl.look(nl.load(weights), video, at, block=2, title="two squares")
    print(video, found.prediction, found.reason)
    with tempfile.TemporaryDirectory() as folder:
        screenshot(found.save(Path(folder) / "look.html"), IMAGES / "look.png")
    return 0


def draw_video(video: Path, classifier: Path) -> None:
    """Draw what a point of a moving body attends to, and where it is followed to."""
    network = nl.load(classifier, num_classes=0, clip="4x20")
    found = nl.look(network, video, AT, moment=0.0, each_frame=True)
    save(draw_look(found), "look_video")
    followed = follow(network, video, [AT[1:], TROUSERS])
    title = "Two points of the first frame, followed by attention from frame to frame"
    save(draw(followed, title=title), "follow_video")


def save(figure: Figure, name: str) -> None:
    figure.savefig(IMAGES / f"{name}.jpg", pil_kwargs={"quality": QUALITY})


def draw_look(found: Look) -> Figure:
    """Draw the point, and in the other frames a glow where it attends to, cut to the action."""
    frames, attention = found.frames, found.attention
    assert found.view is not None
    assert found.times is not None
    count, _, height, width = frames.shape
    queries, keys = lifted(attention, frames)
    now, y, x = (axis.center(i) for axis, i in zip(queries, query_of(attention), strict=True))
    rows, columns = (
        interpolation(axis, torch.arange(n) + 0.5)
        for axis, n in zip(keys[1:], (height, width), strict=True)
    )
    scale = found.view.scale[0]
    left, top, right, bottom = (scale * edge for edge in CUT)
    side = 12.4 / count
    size = 12.4, side * (bottom - top) / (right - left) + 0.68
    figure = Figure(figsize=size, dpi=120)
    for t, axis in enumerate(figure.subplots(1, count)):
        picture = frames[t].permute(1, 2, 0).numpy() / 255
        if t != int(now):
            heat = (rows @ attention.light[t] @ columns.T).clamp(0, 1).numpy()
            gray = picture.mean(2, keepdims=True)
            alpha = 0.85 * np.clip(1.6 * heat, 0, 1)[..., None]
            picture = (0.44 * picture + 0.36 * gray) * (1 - alpha) + GLOW(heat)[..., :3] * alpha
        axis.imshow(np.clip(picture, 0, 1), extent=(0, width, height, 0))
        axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_xlabel(f"{found.times[t]:.1f} s", fontsize=10, labelpad=3)
        for line, color in ((5, "black"), (2.5, "white")) if t == int(now) else ():
            axis.add_patch(Circle((x, y), queries[1].stride, fill=False, lw=line, ec=color))
    title = (
        "A point on the gymnast's shirt (ring), and what it attends to in later frames (glow). "
        "Nothing was trained for it."
    )
    figure.text(0.007, 1 - 0.1 / size[1], title, fontsize=11, va="top")
    figure.subplots_adjust(0.006, 0.32 / size[1], 0.994, 1 - 0.36 / size[1], wspace=0.02)
    return figure


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
