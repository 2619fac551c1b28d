"""Bytes that processes send each other against theory, and the peak memory of each.

    python benchmarks/sharing.py --out benchmarks/results/sharing_cpu.json

One clip of 128 frames, forward + backward, float32, gloo on this machine. The operation has maps of
10 x 10 and keys pooled by 2 x 2, with d = c = 64 channels; the network is a small I3D with two
blocks. Sent bytes are those that a process wrote to its sockets (/proc/self/io), the mean over the
processes. In theory a ring all-reduce of n bytes sends 2 (P - 1) / P · n, keys go to each other
process once, and their gradients come back. Peaks are those of the process with the largest.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import distributed as dist
from torch import multiprocessing

import nonlocalnet as nl
from measure import MIB, machine, peak_mib, run_itself

FRAMES, QUERIES, KEYS, CHANNELS = 128, 100, 25, 64
FORMS = ["dot_product", "concatenation", "embedded_gaussian"]
PROCESSES = {"operation": [2, 4], "network": [1, 2, 4]}
NETWORK = {"clip": "128x1", "crop": 112, "num_classes": 400, "dropout": 0.0, "temporal_group": None}


@dataclass
class Options:
    """What to measure."""

    out: Path = Path("benchmarks/results/sharing_cpu.json")
    """results"""
    case: str | None = None
    """for this script itself: measure one case"""


def written() -> int:
    """Count the bytes that this process has written, to sockets too."""
    text = Path("/proc/self/io").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("wchar")))


def operation(form: str, group):
    """Forward + backward of the own share of the operation."""
    own = FRAMES // group.size()
    shapes = [(own * QUERIES, CHANNELS), (own * KEYS, CHANNELS), (own * KEYS, CHANNELS)]
    tensors = [torch.randn(1, *shape, requires_grad=True) for shape in shapes]
    options = {"w_f": torch.randn(2 * CHANNELS)} if form == "concatenation" else {}
    return lambda: nl.non_local(*tensors, form, group=group, **options).sum().backward()


def network(form: str, group):
    """Forward + backward of the own frames of a network."""
    torch.manual_seed(0)
    net = nl.create_model("i3d_small_nl2", pairwise=form, **NETWORK)
    if group.size() > 1:
        nl.share_frames(net, group)
    clip = torch.randn(1, 3, FRAMES // group.size(), NETWORK["crop"], NETWORK["crop"])
    return lambda: net(clip).sum().backward()


def theory(form: str, count: int) -> float:
    """MiB that each process sends, forward and backward, of the operation."""
    keys = FRAMES * KEYS
    if form == "dot_product":
        both = 2 * 2 * (count - 1) / count * (CHANNELS**2 + 1)
    else:
        width = (1 if form == "concatenation" else CHANNELS) + CHANNELS
        both = 2 * (count - 1) * keys / count * width
    return 4 * both / MIB


def one(rank: int, case: dict, store: str) -> None:
    """Measure as one of the processes; the first one prints the result."""
    torch.set_num_threads(1)
    count = case["processes"]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    step = {"operation": operation, "network": network}[case["module"]](
        case["form"], dist.group.WORLD
    )
    step()  # what torch loads once
    dist.barrier()
    time.sleep(0.5)
    before = written()
    step()
    time.sleep(0.5)
    sent = written() - before
    dist.barrier()
    row = {"sent_mib": sent / MIB, "peak_mib": peak_mib(step, "cpu")}
    rows = [None] * count
    dist.all_gather_object(rows, row)
    if rank == 0:
        mean = sum(row["sent_mib"] for row in rows) / count
        print(json.dumps({"sent_mib": mean, "peak_mib": max(row["peak_mib"] for row in rows)}))
    dist.barrier()
    dist.destroy_process_group()


def main(options: Options) -> None:
    """Measure every case, each in processes of its own."""
    if options.case:
        case = json.loads(options.case)
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.start_processes(
                one, (case, f"{folder}/store"), nprocs=case["processes"], start_method="fork"
            )
        return
    results = {"machine": machine("cpu"), "cases": []}
    for module, counts in PROCESSES.items():
        for form in FORMS:
            for count in counts:
                case = {"module": module, "form": form, "processes": count}
                done = run_itself(
                    __file__, "--case", case, {"MALLOC_MMAP_THRESHOLD_": "65536"}, seconds=900
                )
                if done.returncode:
                    raise SystemExit(done.stderr)
                row = case | json.loads(done.stdout.splitlines()[-1])
                if module == "operation":
                    row["theory_mib"] = theory(form, count)
                results["cases"].append(row)
                options.out.write_text(json.dumps(results, indent=1) + "\n")
                print(
                    {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()},
                    flush=True,
                )


if __name__ == "__main__":
    main(tyro.cli(Options))
