"""Lip reading on the GRID clips: a whole chain on video that nobody here generated.

    python benchmarks/grid.py PATH_TO/data/grid --out runs/grid

1. `prepare` cuts the mouth, 64 x 64 pixels at full resolution, from every 112 x 112 clip: OUT/mouth
   has whole clips, OUT/word_TASK 16 frames around the word.
2. For each task and seed, I3D-small learns the word from the 16 frames ("word", 8x2 clips), and
   then, started from it, the whole 3-second clip ("clip", 31x2 clips) without and with two
   non-local blocks. Labels are those of the data's own list files and Charades-style tables.
3. Test accuracy (mAP for the table) of one and of 10 views is added to OUT/results.json; runs that
   are there already are not repeated.

Every run can be repeated from the command line: its config.json has the options.
"""

from __future__ import annotations

import csv
import json
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from nonlocalnet.checkpoints.load import load
from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.transforms import TestTransform
from nonlocalnet.data.video.reader import decode_all
from nonlocalnet.data.video.write import write_video
from nonlocalnet.evaluation.metrics import compute_metrics
from nonlocalnet.evaluation.multiview import evaluate
from nonlocalnet.runtime.log import console
from nonlocalnet.training.config import TrainConfig
from nonlocalnet.training.trainer import train

TOP, LEFT, SIDE = 36, 24, 64  # the mouth in the 112 x 112 frames
WORD_FRAMES = 16
SPLITS = ("train", "val", "test")
WORD = {"color": "color", "digit": "digit"}
MODELS = {"local": "i3d_small", "non_local": "i3d_small_nl2"}


@dataclass(frozen=True)
class Options:
    grid: tyro.conf.Positional[Path]
    """The folder of the GRID data: videos/, clips.csv, lists and tables."""
    out: Path = Path("runs/grid")
    """Folder for the cut videos, the runs and results.json."""
    tasks: tuple[str, ...] = ("color", "digit", "charades")
    """color (4 classes), digit (10), charades (51 labels, 6 a clip)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs."""
    word_iterations: int = 800
    """Updates of 16 clips on the word."""
    clip_iterations: int = 352
    """Updates of 16 clips on the whole clip; 44 are one epoch."""
    threads: int = 1
    """Of torch."""


def main(options: Options) -> int:
    torch.set_num_threads(options.threads)
    prepare(options.grid, options.out)
    for task in options.tasks:
        for seed in options.seeds:
            start = word_run(options, "color" if task == "charades" else task, seed)
            for kind, model in MODELS.items():
                clip_run(options, task, kind, model, seed, start)
    return 0


def prepare(grid: Path, out: Path) -> None:
    """Cut mouths and words, and copy the lists beside them."""
    if (out / "prepared").exists():
        return
    folders = [out / "mouth", *(out / f"word_{task}" for task in WORD)]
    for folder in folders:
        (folder / "videos").mkdir(parents=True, exist_ok=True)
        for file in (*grid.glob("*_t*.txt"), *grid.glob("*_val.txt"), *grid.glob("charades*.csv")):
            shutil.copy(file, folder / file.name)
    with (grid / "clips.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        frames = decode_all(grid / row["file"])[:, :, TOP : TOP + SIDE, LEFT : LEFT + SIDE]
        frames = frames.permute(0, 2, 3, 1).numpy()
        write_video(out / "mouth" / row["file"], frames, fps=25)
        for task, word in WORD.items():
            middle = (float(row[f"{word}_start"]) + float(row[f"{word}_end"])) / 2
            first = min(max(round(middle - WORD_FRAMES / 2), 0), len(frames) - WORD_FRAMES)
            part = frames[first : first + WORD_FRAMES]
            write_video(out / f"word_{task}" / row["file"], part, fps=25)
    (out / "prepared").touch()


def word_run(options: Options, task: str, seed: int) -> Path:
    """Learn the word from the frames around it."""
    folder, run = options.out / f"word_{task}", options.out / f"{task}_word_{seed}"
    config = make_config(
        folder, run, task, MODELS["local"], "8x2", options.word_iterations, seed, lr=0.1
    )
    return finish(options, config, task, "word", seed)


def clip_run(options: Options, task: str, kind: str, model: str, seed: int, start: Path) -> None:
    """Learn the whole clip, where the word's place must be found."""
    run = options.out / f"{task}_{kind}_{seed}"
    lr = 0.2 if task == "charades" else 0.05
    config = make_config(
        options.out / "mouth", run, task, model, "31x2", options.clip_iterations, seed, lr, start
    )
    finish(options, config, task, kind, seed)


def make_config(
    folder: Path,
    run: Path,
    task: str,
    model: str,
    clip: str,
    iterations: int,
    seed: int,
    lr: float,
    init: Path | str = "none",
) -> TrainConfig:
    name = "charades_style_{}.csv" if task == "charades" else task + "_{}.txt"
    return TrainConfig(
        data=folder / name.format("train"),
        val=folder / name.format("val"),
        root=folder / "videos" if task == "charades" else None,
        out=run,
        model=model,
        clip=clip,
        crop=56,
        short_side=(64, 68),
        iterations=iterations,
        lr_steps=(6 * iterations // 10, 85 * iterations // 100),
        warmup=50,
        batch_size=16,
        lr=lr,
        dropout=0.2,
        precise_norm=20,
        init=str(init),
        seed=seed,
        workers=0,
        cache=True,
        eval_every=iterations // 4,
        device="cpu",
        resume=(run / "checkpoints").exists(),
    )


def finish(options: Options, config: TrainConfig, task: str, kind: str, seed: int) -> Path:
    """Train, test with 1 and 10 views, and note the result; nothing if that is done."""
    weights = config.out / "model.safetensors"
    key, file = f"{task}/{kind}/{seed}", options.out / "results.json"
    if key in read_runs(file):
        return weights
    started = time.monotonic()
    result = train(config)
    if result.interrupted:
        raise SystemExit(130)
    seconds = time.monotonic() - started
    test = Path(str(config.data).replace("_train", "_test"))
    scores = {f"{views}x1": test_score(weights, test, config.root, views) for views in (1, 10)}
    runs = read_runs(file)
    runs[key] = {**scores, "seconds": round(seconds)}
    results = {
        "machine": machine(),
        "torch": torch.__version__,
        "threads": options.threads,
        "runs": dict(sorted(runs.items())),
    }
    file.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"{key}: {scores}, {seconds:.0f} s")
    return weights


def read_runs(file: Path) -> dict[str, dict[str, float]]:
    return json.loads(file.read_text())["runs"] if file.exists() else {}


def machine() -> str:
    """Name the processor, where the system does."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def test_score(weights: Path, data: Path, root: Path | None, views: int) -> float:
    """Top-1 accuracy, or mean average precision, in percent."""
    model = load(weights)
    info = model.info
    records = read_dataset(data, root=root, classes=info.classes).train
    dataset = VideoDataset(
        records,
        len(info.classes),
        ClipSpec.parse(info.config["clip"]),
        TestTransform(info.short_side, info.short_side),
        train=False,
        num_clips=views,
        multi_label=info.multi_label,
    )
    found = evaluate(model, dataset, multi_label=info.multi_label)
    scores = compute_metrics(found.probabilities, found.target, multi_label=info.multi_label)
    return scores["map" if info.multi_label else "top1"]


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
