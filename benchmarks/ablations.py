"""Train the rows of the paper's table 2 in miniature, on the GRID clips, with paired seeds.

    python benchmarks/ablations.py PATH_TO/data/grid --work runs/ablations

1. All clips are decoded once: the mouth, 40 x 56 pixels at full resolution.
2. For each seed, the local network learns single words, 51 classes, from the 16 frames around each.
   All networks of the seed start from it, as the paper's start from ImageNet.
3. Of that network, conv1, its norm and the residual block of res2 are frozen. Their output is
   computed once for a few crops of each clip.
4. For each task and row, the rest of the network learns whole sentences, with the non-local blocks
   of the row, which are the identity at start. All rows of a seed make the same number of updates
   with the same batches.
5. Each run is added to --out and the picture is drawn; runs that are in the file are not repeated.

The tasks are the 51 labels (six words a clip, mAP) and the digit (10 classes, top-1).
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

import nonlocalnet as nl
from ablation_clips import (
    CROP,
    FRAMES,
    SLOTS,
    WORD_FRAMES,
    Data,
    as_slice,
    channels_last,
    percent,
    random,
    read,
    right_words,
    save,
    sentence_batches,
    stacked,
    unpacked,
    word_batches,
    word_start,
)
from ablation_tables import explain, plot, summarize
from measure import machine
from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.evaluation.metrics import compute_metrics
from nonlocalnet.inspection.attention import uneven
from nonlocalnet.runtime.atomic import write_atomically
from nonlocalnet.runtime.log import console
from nonlocalnet.training.losses import classification_loss
from nonlocalnet.training.optim import learning_rate, make_optimizer
from nonlocalnet.training.precise_bn import set_precise_statistics

HERE = Path(__file__).parent

TASKS = {"labels": range(51), "digit": SLOTS["digit"]}

# Maps: 18 frames of 7 x 11 positions in res2, 4 x 6 in res3, 2 x 3 in res4 and res5.
NETWORK: dict[str, Any] = {
    "name": "c2d_small",
    "depths": (1, 2, 3, 1),
    "widths": (8, 16, 16, 16),
    "conv1_channels": 16,
    "conv1_kernel": (5, 3),
    "strides": (1, 2, 2, 1),
    "temporal_stride": 2,
    "pool2_time": 1,
    "subsample": {"res2": (1, 2, 2), "res3": (1, 2, 2)},
    "window": None,
    "dropout": 0.0,
}
ONE, FIVE = {"res4": (1,)}, {"res3": (0, 1), "res4": (0, 1, 2)}
ROWS: dict[str, dict[str, Any]] = {
    "local": {},
    "1 block": {"non_local": ONE},
    "5 blocks": {"non_local": FIVE},
    "5 blocks, space": {"non_local": FIVE, "extent": "space"},
    "5 blocks, time": {"non_local": FIVE, "extent": "time", "subsample": None},
    "2 blocks": {"non_local": {"res3": (0,), "res4": (1,)}},
    "gaussian": {"non_local": ONE, "pairwise": "gaussian"},
    "dot product": {"non_local": ONE, "pairwise": "dot_product"},
    "concatenation": {"non_local": ONE, "pairwise": "concatenation"},
    "res2": {"non_local": {"res2": (0,)}},
    "res3": {"non_local": {"res3": (0,)}},
    "res5": {"non_local": {"res5": (0,)}},
}
DISTANCES = 12  # frames of a feature map, of 0.16 s each
REACH = (1, 2, 3, 6, 9, 18)  # frames that see each other, of the 18 of a feature map


@dataclass(frozen=True)
class Options:
    grid: tyro.conf.Positional[Path]
    """The folder of the GRID data: videos/, clips.csv and classes.txt."""
    work: Path = Path("runs/ablations")
    """Folder for decoded clips, word networks and features."""
    out: Path = HERE / "results/ablations.json"
    """Results."""
    picture: Path = HERE.parent / "docs/images/ablations.png"
    """Plot of the results."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Of labels and digit."""
    seeds: tuple[int, ...] = tuple(range(5))
    """Of the runs."""
    rows: tuple[str, ...] = tuple(ROWS)
    """Networks to train; "local" is needed by all."""
    split: str = "test"
    """Clips to score: test, or val to choose a setting."""
    word_updates: int = 600
    """Updates of 32 words."""
    word_rate: float = 0.1
    """Highest learning rate of SGD on words."""
    updates: int = 120
    """Updates of 16 sentences."""
    rate: float = 0.003
    """Highest learning rate of AdamW on sentences."""
    views: int = 3
    """Crops of each training clip."""


def make(classes: int, row: Mapping[str, Any]) -> Any:
    """Make the network of a row."""
    options = NETWORK | row | {"num_classes": classes, "clip": f"{FRAMES}x1", "crop": CROP[0]}
    network = nl.create_model(**options)
    return network.to(memory_format=torch.channels_last_3d)


def train(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    updates: int,
    optimizer: torch.optim.Optimizer,
    multi_label: bool = False,
) -> None:
    """Train, and set the statistics of the batch norms from 20 further batches.

    The learning rate falls along a cosine, after 20 updates of warm-up.
    """
    model.train()
    rate = optimizer.defaults["lr"]
    for k, (x, target) in enumerate(itertools.islice(batches, updates)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(k, rate, (), warmup=20, cosine=updates)
        optimizer.zero_grad()
        classification_loss(model(x), target, multi_label=multi_label).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    set_precise_statistics(model, [(x,) for x, _ in itertools.islice(batches, 20)])
    model.eval()


def learn_words(options: Options, data: Data, seed: int) -> Any:
    """Train the local network on single words."""
    torch.manual_seed(seed)
    network = make(51, ROWS["local"])
    optimizer = make_optimizer(network, options.word_rate)
    train(network, word_batches(data, seed), options.word_updates, optimizer)
    return network


@torch.no_grad()
def word_scores(network: Any, data: Data, split: str) -> dict[str, float]:
    """Test a network on single words: top-1 among the words of each slot, percent."""
    clips, found = data.of(split), {}
    for slot, name in enumerate(SLOTS):
        cuts = [data.cut(i, word_start(data, i, slot), WORD_FRAMES, None) for i in clips.tolist()]
        right = right_words(network(stacked(cuts)), data.labels[clips])[:, slot]
        found[name] = percent(right)
    return found


@torch.no_grad()
def frozen_features(
    network: Any, data: Data, split: str, generator: torch.Generator | None
) -> Tensor:
    """Compute res2's residual block of all clips of a split: (N, 32, 18, 7, 11), half precision."""
    found = []
    for part in data.of(split).split(20):
        cuts = [
            data.cut(i, 1 if generator is None else random(0, 2, generator), FRAMES, generator)
            for i in part.tolist()
        ]
        x = network.pool1(torch.relu(network.norm1(network.conv1(stacked(cuts)))))
        found.append(network.res2.block0(x).half())
    return torch.cat(found)


class Rest(nn.Module):
    """What of a network follows the residual block of res2."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        stages = network.res2[1:], network.pool2, network.res3, network.res4, network.res5
        self.body, self.fc = nn.Sequential(*stages), network.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3, 4)))


@dataclass(frozen=True)
class Start:
    """What all runs of a seed start from.

    Attributes:
        weights: of the local network that learned words.
        train: (views, N, 32, 18, 7, 11) features of the training clips.
        test: (N, 32, 18, 7, 11) of the clips to score.
        words: its scores on single words.
        seconds: of the processor.
    """

    weights: dict[str, Tensor]
    train: Tensor
    test: Tensor
    words: dict[str, float]
    seconds: float


def prepare(options: Options, data: Data, seed: int) -> Start:
    """Learn words and compute the frozen features, or read them."""
    setting = options.word_updates, options.word_rate, options.views, options.split, seed
    file = options.work / f"start_{'_'.join(map(str, setting))}.pt"
    if not file.exists():
        began = time.process_time()
        network = learn_words(options, data, seed)
        generator = torch.Generator().manual_seed(seed)
        views = [frozen_features(network, data, "train", generator) for _ in range(options.views)]
        test = frozen_features(network, data, options.split, None)
        words = word_scores(network, data, options.split)
        seconds = round(time.process_time() - began, 1)
        save(file, (network.state_dict(), torch.stack(views), test, words, seconds))
    return Start(*torch.load(file))


def run(
    options: Options, data: Data, seed: int, task: str, row: str, start: Start, local: dict | None
) -> dict[str, Any]:
    """Train and test one network on whole sentences."""
    began = time.process_time()
    multi_label, words = task == "labels", as_slice(TASKS[task])
    torch.manual_seed(seed)
    network = make(len(TASKS[task]), ROWS[row])
    weights = start.weights | {k: start.weights[k][words] for k in ("fc.weight", "fc.bias")}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert all("non_local" in name for name in missing), missing
    rest = Rest(network)
    if multi_label:
        target = torch.zeros(len(data.labels), 51).scatter_(1, data.labels, 1.0)
    else:
        target = data.labels[:, list(SLOTS).index(task)] - words.start
    batches = sentence_batches(start.train, target[data.of("train")], seed)
    optimizer = torch.optim.AdamW(rest.parameters(), options.rate, weight_decay=0.01)
    train(rest, batches, options.updates, optimizer, multi_label)

    clips = data.of(options.split)
    logits = score(rest, start.test)
    found: dict[str, Any] = {"score": percentage(logits, target[clips])}
    if multi_label:
        right = right_words(logits, data.labels[clips])
        found["right"] = "".join(str(int(value)) for value in right.flatten())
        if row == "5 blocks" and local is not None:
            helped = right & ~unpacked(local["right"])
            found["reach"] = reach(rest, start.test, target[clips])
            found["attention"] = attention(rest, start.test, data, clips, helped)
    found["seconds"] = round(time.process_time() - began, 1)
    return found


@torch.no_grad()
def score(rest: nn.Module, features: Tensor) -> Tensor:
    """Return the logits of all clips."""
    return torch.cat([rest(channels_last(part)) for part in features.split(25)])


def percentage(logits: Tensor, target: Tensor) -> float:
    """Return mAP of many labels, or top-1 accuracy, percent."""
    if target.ndim == 2:
        return round(compute_metrics(logits.sigmoid(), target, multi_label=True)["map"], 3)
    return round(compute_metrics(logits.softmax(1), target, multi_label=False)["top1"], 3)


def blocks_of(rest: nn.Module) -> dict[str, NonLocalBlock]:
    """Return the non-local blocks by name."""
    return {name: m for name, m in rest.named_modules() if isinstance(m, NonLocalBlock)}


def reach(rest: nn.Module, features: Tensor, target: Tensor) -> dict[str, float]:
    """Score a trained network whose blocks see only groups of so many consecutive frames."""
    found = {}
    for frames in REACH:
        for block in blocks_of(rest).values():
            block.temporal_group = frames
        found[str(frames)] = percentage(score(rest, features), target)
    for block in blocks_of(rest).values():
        block.temporal_group = None
    return found


@torch.no_grad()
def attention(
    rest: nn.Module, features: Tensor, data: Data, clips: Tensor, helped: Tensor
) -> dict[str, Any]:
    """Compute how far from uniform rows are, and their weight at each distance in time.

    A weight is relative to that of a uniform row. It is the mean over all blocks and all positions
    in the frames of words: of those that are right with blocks alone ("helped", 0 without any), and
    of all.
    """
    inputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[name] = args[0]

    blocks = blocks_of(rest)
    handles = [b.register_forward_pre_hook(partial(keep, n)) for n, b in blocks.items()]
    sums: dict[str, Tensor] = {}
    apart: dict[str, list[float]] = {name: [] for name in blocks}
    for part, which, has in zip(features.split(25), clips.split(25), helped.split(25), strict=True):
        rest(channels_last(part))
        for name, block in blocks.items():
            x = inputs[name]
            frames, places = x.shape[2], x[0, 0, 0].numel()
            rows = block.affinity(x)
            apart[name].append(float(uneven(rows, rows.shape[-1]).mean()))
            # (B, query frame, key frame), summed over the keys of a frame
            weight = rows.unflatten(1, (frames, places)).unflatten(3, (frames, -1))
            weight = weight.mean(2).sum(3)
            when = 4 * torch.arange(frames) + 2.0  # in the video; conv1 and pool1 halve time
            begin, end = data.first[which, :, None] - 2, data.last[which, :, None] + 2
            inside = (when >= begin) & (when < end)
            groups = {"helped": inside & has[..., None], "all": inside}
            distance = (torch.arange(frames)[:, None] - torch.arange(frames)).abs()
            for group, chosen in groups.items():
                times = chosen.sum(1).float()  # (B, query frame): words that it belongs to
                for d in range(DISTANCES):
                    mass = (weight * (distance == d)).sum(2)
                    even = (distance == d).sum(1) / frames
                    value = torch.stack([(times * mass).sum(), (times * even).sum()])
                    key = f"{group}/{d}"
                    sums[key] = sums.get(key, torch.zeros(2)) + value
    for handle in handles:
        handle.remove()

    def relative(group: str) -> list[float]:
        pairs = [sums[f"{group}/{d}"].tolist() for d in range(DISTANCES)]
        return [round(mass / even, 4) if even else 0.0 for mass, even in pairs]

    return {
        "uneven": [round(statistics.mean(values), 4) for values in apart.values()],
        "helped": relative("helped"),
        "all": relative("all"),
        "helped_words": int(helped.sum()),
    }


def main(options: Options) -> int:
    """Train what is missing."""
    torch.set_num_threads(1)
    data = read(options.grid, options.work)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    runs, starts = results.get("runs", {}), results.get("starts", {})
    for task, seed in itertools.product(options.tasks, options.seeds):
        keys = {row: f"{task}/{row}/{seed}" for row in options.rows}
        if set(keys.values()) <= runs.keys():
            continue
        start = prepare(options, data, seed)
        starts[str(seed)] = {"words": start.words, "seconds": start.seconds}
        for row, key in keys.items():
            if key in runs:
                continue
            runs[key] = run(options, data, seed, task, row, start, runs.get(f"{task}/local/{seed}"))
            console.print(f"{key}: {runs[key]['score']}, {runs[key]['seconds']} s")
            write(options, data, starts, runs)
    plot(summarize(runs), runs, options.picture)
    return 0


def write(
    options: Options, data: Data, starts: dict[str, Any], runs: dict[str, dict[str, Any]]
) -> None:
    """Write all results."""
    rows = {
        "machine": machine("cpu"),
        "updates": options.updates,
        "word_updates": options.word_updates,
        "word_rate": options.word_rate,
        "rate": options.rate,
        "views": options.views,
        "split": options.split,
        "seconds": round(sum(of["seconds"] for of in (*starts.values(), *runs.values()))),
        "summary": summarize(runs),
        "why": explain(runs, data, options.split),
        "starts": starts,
        "runs": runs,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, lambda place: place.write_text(json.dumps(rows, indent=1) + "\n"))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
