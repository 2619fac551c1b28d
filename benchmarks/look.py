"""How long looking takes, and how large the page gets: networks of real size, whole frames.

    python benchmarks/look.py --out benchmarks/results/look_cpu.json

I3D ResNet-50 with five blocks (random weights), clips of 256 x 340: the analysis of a clip, one row
of weights in the library (best of 20), the numbers of all blocks, the page's size, and in headless
Chromium, where it is installed, how long the page takes to show and then to follow the pointer
(compute a row, draw light and arrows; the slowest of 20 points). Wall seconds.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import nonlocalnet as nl
from measure import machine
from nonlocalnet.inspection.clip import look_at_clip
from nonlocalnet.inspection.html_page import render

SIZE = 256, 340
FOLLOW = """
const done = arguments[0], times = [];
const step = (i) => {
  if (i === 20) return done(times);
  const began = performance.now();
  page.look([(i % 8 + 0.5) / 8, (i + 0.5) / 20, 0.3]);
  page.draw();
  times.push(performance.now() - began);
  requestAnimationFrame(() => step(i + 1));
};
step(0);
"""


@dataclass(frozen=True)
class Options:
    clips: tuple[str, ...] = ("8x8", "32x4", "128x1")
    model: str = "i3d_r50_nl5"
    threads: int = 2
    out: Path | None = None


def main(options: Options) -> int:
    torch.set_num_threads(options.threads)
    rows = []
    for clip in options.clips:
        rows.append(measure(options.model, clip))
        print(rows[-1], flush=True)
    results = {
        "machine": machine("cpu").replace("1 thread", f"{options.threads} threads"),
        "rows": rows,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def measure(name: str, clip: str) -> dict[str, float | str | dict]:
    torch.manual_seed(0)
    model = nl.create_model(name, num_classes=400, clip=clip, crop=224).eval()
    frames = int(clip.split("x")[0])
    video = torch.nn.functional.interpolate(  # soft, as videos are
        255 * torch.rand(3, frames, 16, 20), SIZE, mode="bilinear"
    ).byte()
    began = time.monotonic()
    found = look_at_clip(model, video)
    row: dict[str, float | str | dict] = {"clip": clip, "analysis_s": time.monotonic() - began}
    times = []
    for i in range(20):
        began = time.monotonic()
        found.analysis.attention((i % frames + 0.5, 100.0, 13.0 * i))
        times.append(1000 * (time.monotonic() - began))
    row["row_ms"] = min(times)
    began = time.monotonic()
    _ = found.summaries
    row["numbers_s"] = time.monotonic() - began
    block = found.analysis.block()
    row["positions"], row["keys"] = len(block.query_rows[0]), len(block.key_rows[0])
    began = time.monotonic()
    text = render(found)
    row["page_s"], row["page_mib"] = time.monotonic() - began, len(text) / 2**20
    row["coarser"] = "coarser grid" in text
    if shutil.which("chromium") and shutil.which("chromedriver"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "look.html"
            path.write_text(text)
            row |= in_browser(path)
    return row


def in_browser(path: Path) -> dict[str, float]:
    """Open the page, and let a pointer move over it."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1440,900"):
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        began = time.monotonic()
        driver.get(path.as_uri())
        while not driver.execute_script("return !!window.page?.took"):
            time.sleep(0.02)
        shown = time.monotonic() - began
        times = driver.execute_async_script(FOLLOW)
    finally:
        driver.quit()
    return {"shown_s": shown, "follow_ms": sorted(times)[len(times) // 2], "slowest_ms": max(times)}


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
