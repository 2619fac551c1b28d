"""Does an affinity find a part of a moving body again, in later frames? Nothing is trained for it.

    python benchmarks/correspondence.py --clips FOLDER --weights resnet50.pth \\
        --out benchmarks/results/correspondence.json

`correspondence_points.json` has 30 points on moving bodies in 8 clips, set by hand, and boxes of
the same part in 2 or 3 later frames each, 88 in all. Features are those of an ImageNet ResNet-50,
or patches of raw pixels; f is the plain Gaussian function of the features x_iᵀx_j ("dot product"),
or of features of length one ("cosine"). Two tests:

- rows: the row of the point on all positions of the later frame. A hit is a largest weight in the
  box; `inside` is the share of the weights in it.
- follow: `nl.propagate` carries the point through every eighth frame to the later one. A hit is a
  position in the box.
- chained: from each eighth frame to the next, the point goes to the largest weight of its row. With
  patches this is template matching, with a new template in each frame.

Boxes are grown by 4 pixels, half a position of res3. Chance is the share of the frame that is in
the box; "stays" is a point that does not move. In brackets: 95% of bootstrap samples of the points.
The clips are those of Kinetics-400, UCF101 and HMDB51 that torchvision, MMAction2 and ST-GCN have
among their tests and demos.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

import nonlocalnet as nl
from measure import machine
from nonlocalnet.data.sampling import short_side_size
from nonlocalnet.data.transforms import normalize
from nonlocalnet.data.video.reader import decode
from nonlocalnet.inspection.geometry import Axis
from nonlocalnet.inspection.propagation import Carrier
from nonlocalnet.inspection.stills import Still

POINTS = Path(__file__).with_name("correspondence_points.json")
GROWN = 4  # pixels
STRIDES = {"patches": 4, "res2": 4, "res3": 8, "res4": 16}
PATCH = 17  # pixels
SCALES = {  # of the exponent; the first is that of a plain Gaussian block
    "dot product": (lambda d: (d / 2) ** -0.5, lambda d: (d / 2) ** -0.5 / 4),
    "cosine": (lambda d: 40.0, lambda d: 20.0, lambda d: 10.0),
}
FOLLOWED = {
    "first frame alone": {"scale": 20.0, "top": 10, "references": 0},
    "first and last 4": {"scale": 20.0, "top": 10, "references": 4},
    "first and last 4, scale 10": {"scale": 10.0, "top": 10, "references": 4},
    "first and last 4, scale 40": {"scale": 40.0, "top": 10, "references": 4},
    "first and last 1": {"scale": 20.0, "top": 10, "references": 1},
    "top 1": {"scale": 20.0, "top": 1, "references": 4},
    "top 30": {"scale": 20.0, "top": 30, "references": 4},
    "radius 60": {"scale": 20.0, "top": 10, "references": 4, "radius": 60.0},
}
MAIN = "first and last 4"


@dataclass(frozen=True)
class Options:
    clips: Path
    """Folder of the clips."""
    weights: Path
    """ImageNet ResNet-50."""
    sides: tuple[int, ...] = (256, 480)
    """Short sides of the frames that the network sees."""
    follow_sides: tuple[int, ...] = (256,)
    """Short sides at which points are followed, too."""
    every: int = 8
    """Frames of the video from one to the next that is followed in."""
    only: tuple[str, ...] = ()
    """Measure only clips whose names contain one of these; others are kept from --out."""
    threads: int = 1
    out: Path | None = None


def main(options: Options) -> int:
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    points = json.loads(POINTS.read_text())["points"]
    network = nl.load(options.weights, num_classes=0)
    kept: dict[str, Any] = {}
    if options.out is not None and options.out.exists():
        kept = json.loads(options.out.read_text())["cases"]
    for clip in dict.fromkeys(point["clip"] for point in points):
        own = [point for point in points if point["clip"] == clip]
        if options.only and not any(word in clip for word in options.only):
            continue
        for side in options.sides:
            cases = kept.setdefault(str(side), {})
            follow = side in options.follow_sides
            for name, values in measure(network, options, clip, own, side, follow).items():
                cases.setdefault(name, {})[clip] = values
            print(clip, side, flush=True)
        results = {"machine": machine("cpu"), "table": summarize(kept), "cases": kept}
        if options.out is not None:
            options.out.write_text(json.dumps(results, separators=(",", ":")) + "\n")
    print(report(summarize(kept)))
    return 0


def measure(
    network: Any, options: Options, clip: str, points: list[dict], side: int, follow: bool
) -> dict[str, list]:
    """Return, of each way to compare, a row per point and later frame."""
    annotated = {points[0]["frame"], *(int(t) for point in points for t in point["later"])}
    first, last = min(annotated), max(annotated)
    indices = sorted(annotated | (set(range(first, last, options.every)) if follow else set()))
    frames = decode(options.clips / clip, indices)
    size = frames.shape[2], frames.shape[3]
    maps = features(network, frames, side)
    found: dict[str, list] = {"chance": [], "stays": []}
    for point in points:
        for boxes in point["later"].values():
            x, y = point["x"], point["y"]
            found["chance"].append([float(marked(boxes, size).mean())])
            found["stays"].append([float(marked(boxes, size)[y, x])])
    for layer, x in maps.items():
        for kind, scales in SCALES.items():
            if layer == "patches" and (kind == "dot product" or side != options.sides[0]):
                continue  # patches are of the video's own size
            x_kind = F.normalize(x, dim=1) if kind == "cosine" else x
            stills = list(as_stills(x_kind, STRIDES[layer], network_size(size, side, layer)))
            found[f"rows, {layer}, {kind}"] = rows(stills, indices, points, size, scales)
            if not follow:
                continue
            found[f"chained, {layer}, {kind}"] = chained(stills, indices, points, size)
            if layer != "res4":  # they have so many positions that it takes hours
                continue
            settings = FOLLOWED if kind == "cosine" else {MAIN: FOLLOWED[MAIN]}
            for name, setting in settings.items():
                scaled = setting if kind == "cosine" else {**setting, "scale": "auto"}
                title = f"follow, {layer}, {kind}, {name}"
                found[title] = followed(stills, indices, points, size, scaled)
    return found


def network_size(size: tuple[int, int], side: int, layer: str) -> tuple[int, int]:
    """Return the size of the frames that a layer sees; patches are of the video's own."""
    height, width = size if layer == "patches" else short_side_size(*size, side)
    return height, width


def features(network: Any, frames: Tensor, side: int) -> dict[str, Tensor]:
    """Compute the maps (T, C, h, w) of each layer, frame by frame."""
    found: dict[str, list[Tensor]] = {}
    for frame in frames:
        x = normalize(frame.unsqueeze(1), network.info.mean, network.info.std)
        size = short_side_size(*frame.shape[1:], side)
        x = F.interpolate(x.transpose(0, 1), size, mode="bilinear", antialias=True)
        out: dict[str, Tensor] = {}
        network.features(x.transpose(0, 1).unsqueeze(0), out)
        for layer in ("res2", "res3", "res4"):
            found.setdefault(layer, []).append(out[layer][0, :, 0])
        stride, pad = STRIDES["patches"], PATCH // 2
        colors = F.pad(frame[None].float(), [pad] * 4, mode="replicate")
        patches = F.unfold(colors, PATCH, stride=stride)
        patches = patches - patches.mean(1, keepdim=True)
        found.setdefault("patches", []).append(
            patches[0].unflatten(1, [(n - 1) // stride + 1 for n in frame.shape[1:]])
        )
    return {layer: torch.stack(maps) for layer, maps in found.items()}


def as_stills(maps: Tensor, stride: int, size: tuple[int, int]) -> Iterator[Still]:
    """Make of each map what `nl.propagate` compares."""
    _, channels, height, width = maps.shape
    axes = Axis(0.5, stride, height), Axis(0.5, stride, width)
    for x in maps:
        row = x.flatten(1).T.contiguous()
        options = {"pairwise": "gaussian", "scale": max(channels // 2, 1) ** -0.5}
        yield Still(row, row, options, *axes, size)


def marked(boxes: list[list[int]], size: tuple[int, int]) -> np.ndarray:
    """Mark the pixels of grown boxes."""
    inside = np.zeros(size, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        inside[max(y0 - GROWN, 0) : y1 + GROWN + 1, max(x0 - GROWN, 0) : x1 + GROWN + 1] = True
    return inside


def rows(
    stills: list[Still], indices: list[int], points: list[dict], size: tuple[int, int], scales: Any
) -> list[list[float]]:
    """Return for each point and later frame: hit, and the share inside at each scale."""
    found = []
    factors = [n / whole for n, whole in zip(size, stills[0].whole, strict=True)]
    y, x = (a.scaled(f) for a, f in zip(stills[0].axes, factors, strict=True))
    centers = [[int(a.center(i)) for i in range(a.count)] for a in (y, x)]
    for point in points:
        start = stills[indices.index(point["frame"])]
        query = y.nearest(point["y"] + 0.5) * x.count + x.nearest(point["x"] + 0.5)
        for time, boxes in point["later"].items():
            inside = torch.from_numpy(marked(boxes, size)[np.ix_(*centers)]).flatten()
            score = stills[indices.index(int(time))].phi @ start.theta[query]
            scaled = [(score * scale(len(start.theta[0]))).softmax(0) for scale in scales]
            shares = [round(float(weights[inside].sum()), 4) for weights in scaled]
            found.append([float(inside[score.argmax()]), *shares])
    return found


def chained(
    stills: list[Still], indices: list[int], points: list[dict], size: tuple[int, int]
) -> list[list[float]]:
    """Go from frame to frame to the largest weight of the row there: hit."""
    found = []
    factors = [n / whole for n, whole in zip(size, stills[0].whole, strict=True)]
    y, x = (a.scaled(f) for a, f in zip(stills[0].axes, factors, strict=True))
    for point in points:
        at = y.nearest(point["y"] + 0.5) * x.count + x.nearest(point["x"] + 0.5)
        for t in range(1, len(stills)):
            at = int((stills[t].phi @ stills[t - 1].theta[at]).argmax())
            if boxes := point["later"].get(str(indices[t])):
                row, column = int(y.center(at // x.count)), int(x.center(at % x.count))
                found.append([float(marked(boxes, size)[row, column])])
    return found


def followed(
    stills: list[Still], indices: list[int], points: list[dict], size: tuple[int, int], setting: Any
) -> list[list[float]]:
    """Return for each point and later frame: hit, and confidence."""
    start = torch.tensor([[point["x"], point["y"]] for point in points], dtype=torch.float32)
    setting = {"radius": None, "memory_budget": None, **setting}
    carrier = Carrier(size, None, start, **setting)
    for still in stills:
        carrier.add(still)
    result = carrier.result("")
    assert result.points is not None
    assert result.confidence is not None
    found = []
    for k, point in enumerate(points):
        for time, boxes in point["later"].items():
            t = indices.index(int(time))
            x, y = (int(v) for v in (result.points[t, k] + 0.5).tolist())
            x, y = min(max(x, 0), size[1] - 1), min(max(y, 0), size[0] - 1)
            sure = round(float(result.confidence[t, k]), 4)
            found.append([float(marked(boxes, size)[y, x]), sure])
    return found


def summarize(cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Take means over points and later frames."""
    table = []
    points = json.loads(POINTS.read_text())["points"]
    order = list(dict.fromkeys(point["clip"] for point in points))
    for side, of_side in cases.items():
        for name, clips in of_side.items():
            values = np.array([row for clip in order for row in clips.get(clip, ())])
            owners = [
                k for k, p in enumerate(points) if p["clip"] in clips for _ in p["later"]
            ]  # points are in the order of the clips
            row = {"side": int(side), "case": name, "n": len(values), "hit": values[:, 0].mean()}
            row["interval"] = interval(values[:, 0], np.array(owners))
            if name.startswith("rows"):
                row["inside"] = values[:, 1:].mean(0).tolist()
            elif name.startswith("follow"):
                row["auc"] = auc(values)
                row["confident"] = [
                    [limit, float((values[:, 1] >= limit).mean()), hit_above(values, limit)]
                    for limit in (0.05, 0.1, 0.2, 0.3, 0.5)
                ]
            table.append(row)
    return table


def hit_above(values: np.ndarray, limit: float) -> float | None:
    sure = values[:, 1] >= limit
    return float(values[sure, 0].mean()) if sure.any() else None


def auc(values: np.ndarray) -> float | None:
    """Return how often a hit has more confidence than a miss."""
    hits, misses = values[values[:, 0] > 0, 1], values[values[:, 0] == 0, 1]
    if not len(hits) or not len(misses):
        return None
    above = (hits[:, None] > misses).mean() + 0.5 * (hits[:, None] == misses).mean()
    return float(above)


def interval(hits: np.ndarray, owners: np.ndarray) -> list[float]:
    """Return the middle 95% of means when points are drawn with replacement."""
    random = np.random.default_rng(0)
    groups = [hits[owners == k] for k in np.unique(owners)]
    drawn = random.integers(0, len(groups), (2000, len(groups)))
    sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return np.percentile(means, [2.5, 97.5]).tolist()


def report(table: list[dict[str, Any]]) -> str:
    """Write the table for the documents."""
    lines = ["| short side | case | hit | inside the box | confidence |", "|---|---|---|---|---|"]
    for row in table:
        low, high = row["interval"]
        cells = [row["side"], row["case"], f"{row['hit']:.0%} ({low:.0%} to {high:.0%})"]
        cells.append(", ".join(f"{share:.0%}" for share in row.get("inside", ())))
        cells.append("" if row.get("auc") is None else f"{row['auc']:.2f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
