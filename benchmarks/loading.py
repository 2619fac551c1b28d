"""Time and memory to load a ResNet-101 with five blocks from each kind of file.

python benchmarks/loading.py

Files are written first, of random numbers, as large as the real ones: Caffe2's with momentum
(protocol 2), Caffe2's frozen (flat), PySlowFast's with and without the state of its optimizer,
MMAction2's, ours. Each is then read in a process of its own, by nl.load and by the reader that
people use (pickle, torch.load, safetensors), which leaves names, checks and the network to them.
Memory is the peak of the process above what it had before, the network included; what it takes
above the network is given in sizes of the file.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from safetensors.torch import load_file

import nonlocalnet as nl
from measure import machine
from nonlocalnet.checkpoints.formats import caffe2, mmaction2
from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import export_weights, save_weights

MIB = 1 << 20
NAME = "i3d_r101_nl5"


@dataclass
class Options:
    """Options of the benchmark."""

    out: Path = Path("benchmarks/results/loading_cpu.json")
    """results"""
    one: str | None = None
    """for this script itself: "READER:KIND:FILE" """
    rounds: int = 3
    """the fastest counts"""


KINDS = {
    "caffe2 with momentum": ("x.pkl", {"clip": "32x2", "stem_padding": 0}),
    "caffe2 frozen": ("frozen.pkl", {"clip": "32x4", "stem_padding": 0}),
    "pyslowfast": ("x.pyth", {}),
    "pyslowfast with optimizer": ("full.pyth", {}),
    "mmaction2": ("x.pth", {"clip": "32x2", "temporal_stride": 2}),
    "ours": ("x.safetensors", {}),
}
PAIRWISE = {"pairwise": "embedded_gaussian"}


def write(folder: Path) -> None:
    """Write every kind of file."""
    model = nl.create_model(NAME, clip="32x2")
    entries = {
        name: LazyTensor(tuple(value.shape), value.dtype, lambda value=value: value)
        for name, value in model.state_dict().items()
    }
    blobs = caffe2.export(entries)
    trained = [name for name in blobs if not name.endswith(("_rm", "_riv"))]
    with (folder / "x.pkl").open("wb") as file:
        caffe2.write(file, blobs | {f"{name}_momentum": blobs[name] for name in trained})
    export_weights(
        nl.create_model(NAME, clip="32x4", norm="frozen"), folder / "frozen.pkl", "caffe2"
    )
    padded = nl.create_model(NAME, stem_padding=1)
    export_weights(padded, folder / "x.pyth", "pyslowfast")
    content = torch.load(folder / "x.pyth")
    momentum = {
        i: {"momentum_buffer": torch.zeros_like(p)} for i, p in enumerate(padded.parameters())
    }
    torch.save(content | {"optimizer_state": {"state": momentum}}, folder / "full.pyth")
    odd = {"stem_padding": 1, "pool1_time": 1, "subsample_position": "after", "scale": None}
    state = nl.create_model(NAME, clip="32x2", **odd).state_dict()
    names = {mmaction2.RULES.to_theirs(name): value for name, value in state.items()}
    torch.save({"meta": {}, "state_dict": names}, folder / "x.pth")
    save_weights(model, folder / "x.safetensors", WeightsInfo(config=model.config))


def memory(which: str) -> float:
    """The resident set in MiB: at its peak since the process began (VmHWM), or now (VmRSS)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def read(reader: str, kind: str, path: Path) -> None:
    """Read one file, and print seconds and MiB."""
    options = KINDS[kind][1] | ({} if kind in ("ours", "pyslowfast") else PAIRWISE)
    if kind == "pyslowfast with optimizer":
        options = {}
    torch.zeros(1), nl.create_model("c2d_tiny")  # loaded before the clock starts
    before, start = memory("VmRSS"), time.perf_counter()
    if reader == "ours":
        result = nl.load(path, **options)
    elif path.suffix == ".pkl":
        result = pickle.loads(path.read_bytes(), encoding="latin1")
    elif path.suffix == ".safetensors":
        result = load_file(path)
    else:
        result = torch.load(path, weights_only=True)
    seconds = time.perf_counter() - start
    print(
        json.dumps({"seconds": seconds, "mib": memory("VmHWM") - before, "type": str(type(result))})
    )


def main(options: Options) -> None:
    if options.one is not None:
        reader, kind, path = options.one.split(":", 2)
        return read(reader, kind, Path(path))
    results = {"machine": machine("cpu"), "network": NAME, "cases": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        size = (folder / "x.safetensors").stat().st_size / MIB  # of the model
        results["model_mib"] = size
        for kind, (file, _) in KINDS.items():
            path = folder / file
            row: dict = {"kind": kind, "file_mib": path.stat().st_size / MIB}
            for reader in ("ours", "theirs"):
                runs = []
                for _ in range(options.rounds):
                    command = [sys.executable, __file__, "--one", f"{reader}:{kind}:{path}"]
                    out = subprocess.run(command, check=True, capture_output=True, text=True)
                    runs.append(json.loads(out.stdout.splitlines()[-1]))
                row[f"{reader}_seconds"] = min(run["seconds"] for run in runs)
                row[f"{reader}_mib"] = min(run["mib"] for run in runs)
            row["ours_above_model_in_files"] = (row["ours_mib"] - size) / row["file_mib"]
            results["cases"].append(row)
            print(
                {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}, flush=True
            )
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
