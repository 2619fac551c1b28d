"""What the ablations show: rows beside the local network, and why blocks help."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ablation_clips import SLOTS, Data, unpacked
from paired import compare

TABLES = {
    "2a, pairwise function": {
        "Gaussian": "gaussian",
        "embedded Gaussian": "1 block",
        "dot product": "dot product",
        "concatenation": "concatenation",
    },
    "2b, stage": {"res2": "res2", "res3": "res3", "res4": "1 block", "res5": "res5"},
    "2c, number": {"1 block": "1 block", "2 blocks": "2 blocks", "5 blocks": "5 blocks"},
    "2d, extent": {
        "space": "5 blocks, space",
        "time": "5 blocks, time",
        "space and time": "5 blocks",
    },
}
# Which row is ahead of which in the paper's table 2 (ResNet-50), beside all ahead of the local one.
ORDERS = (
    ("dot product", "gaussian"),
    ("res3", "res5"),
    ("1 block", "res5"),
    ("5 blocks", "1 block"),
    ("5 blocks", "5 blocks, space"),
    ("5 blocks", "5 blocks, time"),
    ("5 blocks, time", "5 blocks, space"),
)


def summarize(runs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Compare every row with the local network, and the rows whose order the paper gives."""
    found: dict[str, Any] = {}
    for task in dict.fromkeys(key.split("/")[0] for key in runs):
        names = dict.fromkeys(key.split("/")[1] for key in runs if key.startswith(f"{task}/"))
        scores = {row: scores_of(runs, task, row) for row in names}
        rows = {
            row: {"mean": round(statistics.mean(values.values()), 3)}
            | (compare(values, scores["local"]) if row != "local" else {"seeds": len(values)})
            for row, values in scores.items()
        }
        orders = {
            f"{ahead} > {behind}": compare(scores[ahead], scores[behind])
            for ahead, behind in ORDERS
            if {ahead, behind} <= scores.keys()
        }
        found[task] = {"rows": rows, "orders": orders}
    return found


def scores_of(runs: Mapping[str, dict[str, Any]], task: str, row: str) -> dict[int, float]:
    """Return the scores of a row by seed."""
    keys = (key.rsplit("/", 1) for key in runs if key.startswith(f"{task}/{row}/"))
    return {int(seed): runs[f"{name}/{seed}"]["score"] for name, seed in keys}


def explain(runs: Mapping[str, dict[str, Any]], data: Data, split: str) -> dict[str, Any]:
    """Compare the words that networks with and without 5 blocks read, and how blocks attend.

    For each slot, and for thirds of the words by their length: the share of words whose right word
    scores highest in its slot, percent.
    """
    rights = {
        row: {
            int(key.rsplit("/", 1)[1]): unpacked(value["right"])
            for key, value in runs.items()
            if key.startswith(f"labels/{row}/")
        }
        for row in ("local", "5 blocks")
    }
    if not rights["5 blocks"]:
        return {}
    clips = data.of(split)
    frames = (data.last - data.first)[clips]
    short, long = frames.flatten().quantile(torch.tensor([1 / 3, 2 / 3])).tolist()
    slots = torch.arange(len(SLOTS)).expand_as(frames)
    groups = {name: slots == k for k, name in enumerate(SLOTS)} | {
        "short": frames <= short,
        "middle": (frames > short) & (frames <= long),
        "long": frames > long,
    }
    shares = {
        row: {
            group: {seed: 100 * right[chosen].double().mean().item() for seed, right in of.items()}
            for group, chosen in groups.items()
        }
        for row, of in rights.items()
    }
    words = {
        group: {
            "words": int(chosen.sum()),
            "seconds": round(float(frames[chosen].mean()) / 25, 3),
            "local": round(statistics.mean(shares["local"][group].values()), 2),
        }
        | compare(shares["5 blocks"][group], shares["local"][group])
        for group, chosen in groups.items()
    }
    blocks = [value for key, value in runs.items() if key.startswith("labels/5 blocks/")]
    looked = [of["attention"] for of in blocks]

    def reached(frames: str) -> dict[int, float]:
        return {i: of["reach"][frames] for i, of in enumerate(blocks)}

    return {
        "words": words,
        "reach": {frames: compare(reached(frames), reached("18")) for frames in blocks[0]["reach"]},
        "attention": {name: means([of[name] for of in looked]) for name in ("helped", "all")},
        "own frame": compare(
            *(dict(enumerate(of[name][0] for of in looked)) for name in ("helped", "all"))
        ),
        "uneven": means([of["uneven"] for of in looked]),
    }


def means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Average lists of numbers."""
    return [round(statistics.mean(values), 4) for values in zip(*rows, strict=True)]


def plot(summary: Mapping[str, Any], runs: Mapping[str, dict[str, Any]], file: Path) -> None:
    """Draw each row's difference from the local network: mean, standard error and all seeds."""
    figure = Figure(figsize=(11, 3.1 * len(summary)), layout="constrained")
    grid = figure.subplots(len(summary), len(TABLES), squeeze=False, sharey="row")
    for axes, (task, found) in zip(grid, summary.items(), strict=True):
        local = scores_of(runs, task, "local")
        for axis, (title, rows) in zip(axes, TABLES.items(), strict=True):
            axis.axhline(0, color="0.6", lw=1)
            for k, row in enumerate(rows.values()):
                of = found["rows"].get(row)
                if of is None:
                    continue
                scores = scores_of(runs, task, row)
                points = [scores[seed] - local[seed] for seed in scores.keys() & local.keys()]
                axis.plot([k + 0.18] * len(points), points, ".", color="0.65", ms=5)
                axis.errorbar(
                    k, of["difference"], of["standard_error"], fmt="o", color="C0", capsize=3
                )
            axis.set_xticks(range(len(rows)), [name.replace(" ", "\n", 1) for name in rows])
            axis.set_xlim(-0.5, len(rows) - 0.4)
            axis.tick_params(labelsize=7.5)
            axis.set_title(f"Table {title}", fontsize=10)
        name = "51 labels, mAP" if task == "labels" else "digit, top-1"
        axes[0].set_ylabel(f"{name}: points\nahead of the local network", fontsize=9)
    figure.savefig(file, dpi=110)
