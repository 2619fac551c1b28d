"""Time and memory of the operation against the textbook form, at the paper's sizes.

    python benchmarks/operation.py --out benchmarks/results/operation_cpu.json

Forward, forward + backward, peak memory, for three forms, two widths d = c, two dtypes. The
textbook form is written here as everybody writes it, in the input's own dtype. Cases whose
textbook form would take minutes are left out of the comparison (null). On a CPU: one sample, one
thread; on a GPU: 8 samples, with the share of the rate of a large matrix product.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import nonlocalnet as nl
from measure import in_a_process, machine, milliseconds, peak_mib

SIZES = [(784, 196), (3136, 784), (12544, 3136), (50176, 12544)]
FORMS = ["dot_product", "concatenation", "embedded_gaussian"]
LONGEST = 60  # seconds that a textbook form may take


@dataclass
class Options:
    """What to measure."""

    out: Path = Path("benchmarks/results/operation_cpu.json")
    """results, rewritten after every case; cases that are there already are not repeated"""
    forms: tuple[str, ...] = tuple(FORMS)
    widths: tuple[int, ...] = (256, 512)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    largest: int = 50176
    """largest N"""
    memory_of: str | None = None
    """for this script itself: print the peak MiB of one case"""


def textbook(theta, phi, g, pairwise, w_f=None):
    """The operation with its N x M matrix."""
    if pairwise == "concatenation":
        w_theta, w_phi = w_f.chunk(2)
        f = ((theta @ w_theta).unsqueeze(2) + (phi @ w_phi).unsqueeze(1)).relu()
        return (f / phi.shape[1]) @ g
    s = theta @ phi.mT
    return (s / phi.shape[1] if pairwise == "dot_product" else s.softmax(2)) @ g


def make(form: str, dtype: str, d: int, n: int, m: int, batch: int, device: str):
    """Inputs whose scores have standard deviation 1."""
    torch.manual_seed(0)
    kind = {"dtype": getattr(torch, dtype), "device": device}
    theta, phi = (torch.randn(batch, k, d, **kind) * d**-0.25 for k in (n, m))
    g, grad = (torch.randn(batch, k, d, **kind) for k in (m, n))
    options = {}
    if form == "concatenation":
        options["w_f"] = torch.randn(2 * d, **kind) * d**-0.25
    leaves = [t.requires_grad_() for t in (theta, phi, g, *options.values())]
    return leaves[:3], options, grad


def functions(case: dict) -> dict:
    """Forward without gradients and forward + backward, of both."""
    which, sizes = case["which"], {k: v for k, v in case.items() if k != "which"}
    tensors, options, grad = make(**sizes)
    compute = {"textbook": textbook, "ours": nl.non_local}[which]

    def forward():
        with torch.no_grad():
            compute(*tensors, case["form"], **options)

    def both():
        compute(*tensors, case["form"], **options).backward(grad)

    return {"forward": forward, "both": both}


def seconds_of_textbook(case: dict, rate: float) -> float:
    """Estimate forward + backward from the products' rate, in FLOP/s."""
    b, n, m, d = (case[key] for key in ("batch", "n", "m", "d"))
    return (6 if case["form"] == "concatenation" else 12) * b * n * m * d / rate


def ceiling(dtype: str, device: str) -> float:
    """The rate of a large matrix product, FLOP/s."""
    size = 8192 if device == "cuda" else 512
    x = torch.randn(size, size, dtype=getattr(torch, dtype), device=device)
    return 2 * size**3 / milliseconds({"product": lambda: x @ x}, device)["product"] * 1000


def main(options: Options) -> None:
    """Measure every case."""
    torch.set_num_threads(1)
    if options.memory_of:
        case = json.loads(options.memory_of)
        functions(case | {"n": 64, "m": 16})["both"]()  # what torch loads once
        print(peak_mib(functions(case)["both"], "cpu"))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = {dtype: ceiling(dtype, device) for dtype in options.dtypes}
    results = {"machine": machine(device), "flops_of_a_product": rates, "cases": []}
    if options.out.exists():
        results["cases"] = json.loads(options.out.read_text())["cases"]
    for dtype, form, d, (n, m) in (
        (dtype, form, d, size)
        for dtype in options.dtypes
        for form in options.forms
        for d in options.widths
        for size in SIZES
        if size[0] <= options.largest
    ):
        batch = 8 if device == "cuda" and n < 50176 else 1
        case = {
            "form": form,
            "dtype": dtype,
            "d": d,
            "n": n,
            "m": m,
            "batch": batch,
            "device": device,
        }
        if any(case.items() <= row.items() for row in results["cases"]):
            continue
        functions(case | {"n": 64, "m": 16, "which": "ours"})["both"]()  # what torch loads once
        names = ["ours"]
        if seconds_of_textbook(case, rates[dtype]) < LONGEST:
            names.append("textbook")
        made = {name: functions(case | {"which": name}) for name in names}
        row = case.copy()
        for what in ("forward", "both"):
            times = milliseconds({name: made[name][what] for name in names}, device)
            row |= {f"{name}_{what}_ms": times[name] for name in names}
        tensors, extra, _ = make(**case)
        row["implementation"] = nl.explain(*tensors, form, **extra).implementation
        for name in names:
            which = case | {"which": name}
            row[f"{name}_mib"] = (
                peak_mib(made[name]["both"], device)
                if device == "cuda"
                else in_a_process(__file__, which)
            )
        results["cases"].append(row)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        print({k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
