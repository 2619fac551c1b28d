"""Speed and memory of whole networks, training and inference, against other people's.

    python benchmarks/training.py

C2D and I3D ResNet-50, with and without five non-local blocks in the same places, clips of 8 frames
of 224 x 224. A training step is forward, cross-entropy, backward and SGD with momentum. The rivals:
pytorchvideo 0.1.5 (its networks of that name, and its non-local layer, which is the same function
as our block, put in by hand) and MMAction2 1.2 (which pools keys after projecting them) where these
are installed, as they come and in the memory format channels_last_3d; and `plain`, our own network
computed by torch's convolutions and batch norm. All have maps of 56 x 56 after pool1.

A case is a network, a type and a step; its networks take turns in a process of its own, and its
rows are written when it ends. One that fails or takes too long leaves the others' as they are, and
what the file has already is not measured again.

tests/golden/make_peers.py says how the rivals install.
"""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import nn
from torch.nn import functional as F

import nonlocalnet as nl
from measure import in_a_process, machine, milliseconds, peak_mib, run_itself
from nonlocalnet.blocks.convolution import Conv3d
from nonlocalnet.blocks.norm import BatchNorm3d

NETWORKS = ("c2d_r50", "c2d_r50_nl5", "i3d_r50", "i3d_r50_nl5")
PLACES = {"res3": (1, 3), "res4": (1, 3, 5)}
LAST = ", channels last"


def ours(name: str) -> nn.Module:
    """The network of our table; maps of 56 x 56 as the rivals have."""
    return nl.create_model(name, clip="8x8", stem_padding=1)


def plain(name: str) -> nn.Module:
    """The same, computed by torch's own layers."""
    network = ours(name)
    for module in network.modules():
        for base in (Conv3d, BatchNorm3d):
            if type(module) is base:
                module.__class__ = base.__base__  # ty: ignore
    return network


def pytorchvideo(name: str) -> nn.Module:
    """Its hub's network, with its non-local layer after the same residual blocks."""
    from pytorchvideo.layers.nonlocal_net import create_nonlocal
    from pytorchvideo.models.hub import resnet

    network = getattr(resnet, name.removesuffix("_nl5"))()
    if name.endswith("_nl5"):
        for stage, places in PLACES.items():
            blocks = network.blocks[int(stage[-1])].res_blocks
            channels = 64 * 2 ** int(stage[-1])
            for i in places:
                layer = create_nonlocal(
                    dim_in=channels, dim_inner=channels // 2, pool_size=(1, 2, 2)
                )
                blocks[i] = nn.Sequential(blocks[i], layer)
    return network


def mmaction2(name: str) -> nn.Module:
    """Its backbone under a pooling and a classifier."""
    for package in ("mmaction", "mmaction.models", "mmaction.models.backbones"):
        if package not in sys.modules:  # its packages import everything there is
            module = types.ModuleType(package)
            module.__path__ = [f"{p}/{package.replace('.', '/')}" for p in sys.path]
            sys.modules[package] = module
    from mmaction.models.backbones.resnet3d import ResNet3d

    i3d = name.startswith("i3d")
    inflated = ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)) if i3d else (0, 0, 0, 0)
    places = [
        [int(i in PLACES.get(f"res{stage + 2}", ())) for i in range(depth)]
        for stage, depth in enumerate((3, 4, 6, 3))
    ]
    block = {"sub_sample": True, "use_scale": True, "mode": "embedded_gaussian"}
    non_local = {"non_local": places, "non_local_cfg": block | {"norm_cfg": {"type": "BN3d"}}}
    backbone = ResNet3d(
        depth=50,
        pretrained=None,
        conv1_kernel=(5 if i3d else 1, 7, 7),
        conv1_stride_t=1,
        pool1_stride_t=1,
        inflate=inflated,
        norm_eval=False,
        **(non_local if name.endswith("_nl5") else {}),
    )
    return nn.Sequential(
        backbone, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(2048, 400)
    )


MAKE: dict[str, Callable[[str], nn.Module]] = {
    "ours": ours,
    "plain": plain,
    "pytorchvideo": pytorchvideo,
    "mmaction2": mmaction2,
}


def contestants() -> list[str]:
    """Who is here, in which memory format; ours chooses its own."""
    found = ["ours", "plain" + LAST]
    for rival in ("pytorchvideo", "mmaction2"):
        try:
            MAKE[rival]("c2d_r50_nl5")
        except ImportError as error:
            print(f"left out: {rival} ({error})")
        else:
            found += [rival, rival + LAST]
    return found


def functions(case: dict) -> dict[str, Callable]:
    """A training step and inference of one network."""
    torch.manual_seed(0)
    device, half = case["device"], case["dtype"] == "bfloat16"
    network = MAKE[case["who"].removesuffix(LAST)](case["network"]).to(device)
    clips = torch.randn(case["clips"], 3, 8, 224, 224, device=device)
    if case["who"].endswith(LAST):
        network, clips = (t.to(memory_format=torch.channels_last_3d) for t in (network, clips))
    labels = torch.arange(case["clips"], device=device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def train():
        network.train()
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(network(clips), labels)
        loss.backward()
        optimizer.step()

    def infer():
        network.eval()
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
            network(clips)

    return {"train": train, "infer": infer}


@dataclass
class Options:
    """What to measure."""

    out: Path = Path("benchmarks/results/training_cpu.json")
    """results, rewritten after every case"""
    networks: tuple[str, ...] = NETWORKS
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """bfloat16 is autocast"""
    steps: tuple[Literal["infer", "train"], ...] = ("infer", "train")
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    clips: int | None = None
    """a step's clips; None is 1 on a CPU, 8 on a GPU"""
    rounds: int = 5
    """at least; a CPU takes bfloat16 once, which is slow there"""
    minutes: float = 9
    """for the times of one case; it is left out where they take longer"""
    again: bool = False
    """measure what the file has, too"""
    memory_of: str | None = None
    """for this script itself: print the peak MiB of one network's training"""
    times_of: str | None = None
    """for this script itself: print the milliseconds of each network in one case"""


def times(case: dict) -> dict[str, float]:
    """Milliseconds of all contestants, who take turns."""
    timed = {who: functions(case | {"who": who})[case["what"]] for who in case["everyone"]}
    once = case["device"] == "cpu" and case["dtype"] == "bfloat16"
    least, slow_ms = (1, 0) if once else (case["rounds"], float("inf"))
    return milliseconds(timed, case["device"], least=least, slow_ms=slow_ms)


def rows(case: dict, everyone: list[str], options: Options) -> list[dict]:
    """One case's rows; those of training with peak memory, in float32 only on a CPU."""
    request = case | {"everyone": everyone, "rounds": options.rounds}
    done = run_itself(__file__, "--times-of", request, seconds=60 * options.minutes)
    if done.returncode:
        raise RuntimeError((done.stderr.splitlines() or ["its process died"])[-1])
    result = []
    for who, ms in json.loads(done.stdout.splitlines()[-1]).items():
        row = case | {"who": who, "ms": ms, "clips_per_second": 1000 * case["clips"] / ms}
        if case["what"] == "train" and (case["device"] == "cuda" or case["dtype"] == "float32"):
            row["mib"] = in_a_process(__file__, case | {"who": who})
        result.append(row)
    return result


def main(options: Options) -> None:
    """Measure every case that the file lacks."""
    torch.set_num_threads(1)
    if options.memory_of:
        case = json.loads(options.memory_of)
        print(peak_mib(functions(case)["train"], case["device"]))
        return
    if options.times_of:
        print(json.dumps(times(json.loads(options.times_of))))
        return
    device = options.device
    clips = options.clips or (1 if device == "cpu" else 8)
    everyone = contestants()
    results = {"machine": machine(device), "clips": clips, "cases": []}
    if options.out.exists():
        before = json.loads(options.out.read_text())
        if before["machine"] != results["machine"] or before["clips"] != clips:
            raise SystemExit(f"{options.out} is of {before['machine']}: give another --out")
        results = before
    for dtype, network, what in product(options.dtypes, options.networks, options.steps):
        case = {"network": network, "dtype": dtype, "device": device, "clips": clips, "what": what}
        known = [row for row in results["cases"] if case.items() <= row.items()]
        if known and not options.again:
            continue
        try:
            found = rows(case, everyone, options)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"left out: {network} {dtype} {what} ({error})", flush=True)
            continue
        results["cases"] = [row for row in results["cases"] if row not in known] + found
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        ms = {row["who"]: row["ms"] for row in found}
        ratios = {who: f"{ms[who] / ms['ours']:.2f}x" for who in ms}
        print(network, dtype, what, f"{ms['ours']:.0f} ms", ratios, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
