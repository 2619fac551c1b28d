"""Time and memory of the whole block against other people's blocks with the same options.

    python benchmarks/block.py --out benchmarks/results/block_cpu.json

The rivals: the textbook block as everybody writes it (here, below), and those of pytorchvideo,
mmcv-lite and timm where these are installed. Training (forward + backward, batch norm taking
statistics) and inference, peak memory of training. Each rival has a block of ours with its
options beside it: pooling before or after the projections, or none; its norm.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

import nonlocalnet as nl
from measure import in_a_process, machine, milliseconds, peak_mib

SIZES = {  # channels and a map of res4 and res3, of clips of 8 and 32 frames
    "res4, 8 frames": (1024, (4, 14, 14)),
    "res4, 32 frames": (1024, (16, 14, 14)),
    "res3, 8 frames": (512, (4, 28, 28)),
    "res3, 32 frames": (512, (16, 28, 28)),
}
FORMS = ("embedded_gaussian", "dot_product", "concatenation")
POOL = (1, 2, 2)


class Textbook(nn.Module):
    """The block with its N x M matrix, keys pooled before the projections."""

    def __init__(self, channels: int, pairwise: str) -> None:
        super().__init__()
        inner = channels // 2
        self.pairwise, self.inner = pairwise, inner
        self.theta, self.phi, self.g = (nn.Conv3d(channels, inner, 1) for _ in range(3))
        self.w_f = nn.Parameter(torch.randn(2 * inner) * 0.01)
        self.w_z, self.norm = nn.Conv3d(inner, channels, 1), nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        keys = F.max_pool3d(x, POOL)
        theta = self.theta(x).flatten(2).transpose(1, 2)
        phi, g = self.phi(keys).flatten(2), self.g(keys).flatten(2).transpose(1, 2)
        if self.pairwise == "concatenation":
            w_theta, w_phi = self.w_f.chunk(2)
            s = (theta @ w_theta).unsqueeze(2) + (w_phi @ phi).unsqueeze(1)
            a = s.relu() / phi.shape[2]
        elif self.pairwise == "dot_product":
            a = theta @ phi / phi.shape[2]
        else:
            a = (theta @ phi * self.inner**-0.5).softmax(2)
        y = (a @ g).transpose(1, 2).reshape(x.shape[0], self.inner, *x.shape[2:])
        return x + self.norm(self.w_z(y))


def blocks(rival: str, pairwise: str, channels: int) -> tuple[Callable, dict]:
    """How to make the rival's block, and the options of ours that make it the same function."""
    inner = channels // 2
    if rival == "textbook":
        return lambda: Textbook(channels, pairwise), {"subsample": POOL}
    if rival == "pytorchvideo":
        made = importlib.import_module("pytorchvideo.layers.nonlocal_net").create_nonlocal
        kind = {"embedded_gaussian": "softmax"}.get(pairwise, pairwise)
        return (
            lambda: made(dim_in=channels, dim_inner=inner, pool_size=POOL, instantiation=kind),
            {"subsample": POOL},
        )
    if rival == "mmcv":
        made = importlib.import_module("mmcv.cnn").NonLocal3d
        return (
            lambda: made(channels, sub_sample=True, mode=pairwise),
            {"subsample": POOL, "subsample_position": "after", "norm": None},
        )
    made = importlib.import_module("timm.layers").NonLocalAttn
    return lambda: made(channels, rd_ratio=0.5), {"dims": 2}


def rivals(pairwise: str) -> list[str]:
    """Who has this form; mmcv 2.2 has concatenation, but its backward raises (an in-place relu)."""
    found = ["textbook"]
    if pairwise != "concatenation":
        found += ["pytorchvideo", "mmcv"]
    if pairwise == "embedded_gaussian":
        found.append("timm")
    homes = {"pytorchvideo": "pytorchvideo.layers.nonlocal_net", "mmcv": "mmcv.cnn", "timm": "timm"}
    return [rival for rival in found if rival not in homes or _installed(homes[rival])]


def _installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError as error:
        print(f"left out: {error}")
        return False
    return True


def functions(case: dict) -> dict[str, Callable]:
    """Training and inference of one block."""
    torch.manual_seed(0)
    channels, size = case["channels"], case["size"]
    make, options = blocks(case["rival"], case["pairwise"], channels)
    if case["which"] == "ours":
        block = nl.NonLocalBlock(channels, pairwise=case["pairwise"], **options)
    else:
        block = make()
    if case["rival"] == "timm":  # images: frames side by side
        size = (size[0] * size[1], size[2])
    block = block.to(case["device"])
    x = torch.randn(case["batch"], channels, *size, device=case["device"])
    if case["channels_last"]:
        block, x = (t.to(memory_format=torch.channels_last_3d) for t in (block, x))
    x.requires_grad_()
    grad = torch.randn_like(x)

    def train():
        block.train()
        block(x).backward(grad)

    def infer():
        block.eval()
        with torch.no_grad():
            block(x)

    return {"train": train, "infer": infer}


@dataclass
class Options:
    """What to measure."""

    out: Path = Path("benchmarks/results/block_cpu.json")
    """results, rewritten after every case"""
    sizes: tuple[str, ...] = tuple(SIZES)
    channels_last: bool = False
    """the memory format channels_last_3d, against the textbook block alone"""
    memory_of: str | None = None
    """for this script itself: print the peak MiB of one case"""


def main(options: Options) -> None:
    """Measure every case."""
    torch.set_num_threads(1)
    if options.memory_of:
        case = json.loads(options.memory_of)
        functions(case | {"channels": 16, "size": (2, 4, 4)})["train"]()  # what torch loads once
        print(peak_mib(functions(case)["train"], "cpu"))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = {"machine": machine(device), "cases": []}
    for name in options.sizes:
        channels, size = SIZES[name]
        n = size[0] * size[1] * size[2]
        for pairwise in FORMS:
            for rival in ["textbook"] if options.channels_last else rivals(pairwise):
                case = {
                    "rival": rival,
                    "pairwise": pairwise,
                    "channels": channels,
                    "size": size,
                    "batch": 8 if device == "cuda" else 1,
                    "device": device,
                    "channels_last": options.channels_last,
                }
                row = {"map": name, "n": n, **case}
                made = {who: functions(case | {"which": who}) for who in ("ours", "rival")}
                for what in ("train", "infer"):
                    times = milliseconds({who: made[who][what] for who in made}, device)
                    row |= {f"{who}_{what}_ms": value for who, value in times.items()}
                for who in made:
                    row[f"{who}_mib"] = (
                        peak_mib(made[who]["train"], device)
                        if device == "cuda"
                        else in_a_process(__file__, case | {"which": who})
                    )
                results["cases"].append(row)
                options.out.write_text(json.dumps(results, indent=1) + "\n")
                ratio = row["rival_train_ms"] / row["ours_train_ms"]
                print(name, pairwise, rival, f"training {ratio:.2f}x", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
