"""Time and memory of other projects' blocks as they come, and after nl.accelerate.

    python benchmarks/accelerate.py --out benchmarks/results/accelerate_cpu.json

Each family at a size that is typical for it: a forward pass without gradients, and a training step
(forward and backward). The blocks are those of diffusers, MONAI, mmcv, pytorchvideo, timm and
fastai where these are installed (`make test-peers` has the list); the others are the stand-ins of
the tests, which build the N x M matrix as the originals do. Rounds are interleaved, and medians of
the processor's time count. Peak memory is measured in a process of its own for each family.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

import nonlocalnet as nl
from measure import machine, once, peak_mib, run_itself
from nonlocalnet.acceleration.report import memory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import stand_ins as wild

VIDEO = ("conv_theta", "conv_phi", "conv_g", "conv_out")


def of(module: str, name: str) -> Any:
    """Return a class or function of a package that may be absent."""
    return getattr(importlib.import_module(module), name)


def diffusers_attention() -> nn.Module:
    return of("diffusers.models.attention_processor", "Attention")(
        512, heads=1, dim_head=512, norm_num_groups=32, eps=1e-6, residual_connection=True,
        bias=True,
    )  # fmt: skip


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "AttnBlock, 512 px": (lambda: wild.AttnBlock(512), (1, 512, 64, 64)),
    "AttnBlock, 576 px, width 256": (lambda: wild.AttnBlock(256), (1, 256, 72, 72)),
    "diffusers AutoencoderKL, 512 px": (diffusers_attention, (1, 512, 64, 64)),
    "diffusers Wan, 384 x 512": (
        lambda: of("diffusers.models.autoencoders.autoencoder_kl_wan", "WanAttentionBlock")(384),
        (1, 384, 1, 48, 64),
    ),
    "diffusers HunyuanVideo-1.5, 5 frames": (
        lambda: of(
            "diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15", "HunyuanVideo15AttnBlock"
        )(512),
        (1, 512, 5, 20, 20),
    ),
    "guided-diffusion, 4 heads": (lambda: wild.GuidedAttentionBlock(256, 4), (4, 256, 32, 32)),
    "score_sde": (lambda: wild.AttnBlockpp(256), (4, 256, 32, 32)),
    "DANet, 576 px, width 128": (lambda: wild.PAM_Module(128), (1, 128, 72, 72)),
    "BigGAN": (lambda: wild.BigGANAttention(192), (4, 192, 64, 64)),
    "fastai": (lambda: of("fastai.layers", "SelfAttention")(256), (1, 256, 64, 64)),
    "AlexHex7 embedded Gaussian": (
        lambda: wild.TextbookBlock(256, 2, "embedded_gaussian", True, True),
        (2, 256, 56, 56),
    ),
    "AlexHex7 dot product, 3-D": (
        lambda: wild.TextbookBlock(128, 3, "dot_product", False, True),
        (1, 128, 8, 28, 28),
    ),
    "AlexHex7 concatenation": (
        lambda: wild.TextbookBlock(128, 2, "concatenation", True, True),
        (1, 128, 40, 40),
    ),
    "mmcv NLHead": (
        lambda: of("mmcv.cnn", "NonLocal2d")(512, reduction=2, zeros_init=False),
        (1, 512, 64, 64),
    ),
    "mmcv dot product": (
        lambda: of("mmcv.cnn", "NonLocal2d")(512, mode="dot_product", zeros_init=False),
        (1, 512, 64, 64),
    ),
    "pytorchvideo softmax": (
        lambda: of("pytorchvideo.layers.nonlocal_net", "create_nonlocal")(
            dim_in=512, dim_inner=256, pool_size=(1, 2, 2)
        ),
        (1, 512, 4, 28, 28),
    ),
    "pytorchvideo dot product": (
        lambda: of("pytorchvideo.layers.nonlocal_net", "create_nonlocal")(
            dim_in=256, dim_inner=128, instantiation="dot_product"
        ),
        (1, 256, 4, 28, 28),
    ),
    "timm": (lambda: of("timm.layers", "NonLocalAttn")(256), (2, 256, 56, 56)),
    "MONAI, 3-D": (
        lambda: of("monai.networks.blocks", "SpatialAttentionBlock")(3, 64),
        (1, 64, 16, 20, 16),
    ),
}


@dataclass(frozen=True)
class Options:
    """Compare blocks before and after nl.accelerate.

    Attributes:
        out: JSON file of the results.
        device: cpu or cuda.
        only: part of the names of the cases to run.
        memory_of: internal: measure one block's memory and print it.
    """

    out: Path | None = None
    device: str = "cpu"
    only: str = ""
    memory_of: str = ""


def prepared(name: str, accelerated: bool, device: str) -> tuple[nn.Module, Tensor]:
    make, shape = CASES[name]
    torch.manual_seed(0)
    block, x = make().to(device), torch.randn(shape, device=device)
    if accelerated:
        found = nl.accelerate(block, verbose=False)
        assert found.accelerated, found
    return block, x


def runs(block: nn.Module, x: Tensor) -> dict[str, Callable[[], None]]:
    x = x.requires_grad_()

    def forward() -> None:
        block.eval()
        with torch.no_grad():
            block(x)

    def step() -> None:
        block.train()
        block.zero_grad()
        block(x).square().mean().backward()

    return {"forward": forward, "step": step}


def times(name: str, device: str) -> dict[str, dict[str, float]]:
    """Median milliseconds, before and after, of interleaved rounds."""
    pair = [runs(*prepared(name, accelerated, device)) for accelerated in (False, True)]
    found = {}
    for what in ("forward", "step"):
        taken: list[list[float]] = [[], []]
        started, seconds = time.monotonic(), 0.0
        while len(taken[0]) < 2 or (len(taken[0]) < 15 and seconds < 4):
            for i in (0, 1) if len(taken[0]) % 2 else (1, 0):
                taken[i].append(once(pair[i][what], device))
            seconds = time.monotonic() - started
        before, now = (statistics.median(t[1:]) for t in taken)  # the first warms up
        found[what] = {"before_ms": before, "now_ms": now, "speedup": before / now}
    return found


def peaks(name: str, device: str) -> dict[str, dict[str, float]]:
    """Peak mebibytes, before and after."""
    found: dict[str, dict[str, float]] = {"forward": {}, "step": {}}
    for when, accelerated in (("before_mib", False), ("now_mib", True)):
        for what, run in runs(*prepared(name, accelerated, device)).items():
            found[what][when] = peak_mib(run, device)
    return found


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.memory_of:
        print(json.dumps(peaks(json.loads(options.memory_of), options.device)))
        return
    results: dict[str, Any] = {"machine": machine(options.device), "cases": {}}
    for name in CASES:
        if options.only not in name:
            continue
        try:
            row: dict[str, Any] = times(name, options.device)
        except ModuleNotFoundError as error:
            print(f"{name}: {error.name} is not installed")
            continue
        block, x = prepared(name, False, options.device)
        report = nl.accelerate(block, dry_run=True, example=x, verbose=False)
        row["positions"] = report.accelerated[0].positions
        environment = {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = run_itself(__file__, "--memory-of", name, environment)
        for what, measured in json.loads(done.stdout.splitlines()[-1]).items():
            row[what] |= measured
        results["cases"][name] = row
        print(line(name, row), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(results, indent=1) + "\n")


def line(name: str, row: dict[str, Any]) -> str:
    n, m = row["positions"]
    parts = [f"{name:38} {n:>6,} x {m:<6,}"]
    for what in ("forward", "step"):
        r = row[what]
        before, now = (memory(int(r[f"{when}_mib"] * 2**20)) for when in ("before", "now"))
        parts.append(f"{what} {r['before_ms']:7.1f} ms x {r['speedup']:5.2f}  {before} -> {now}")
    return "  ".join(parts)


if __name__ == "__main__":
    main(tyro.cli(Options))
