"""Check and measure everything on a GPU, in one command of at most nine minutes.

    make gpu      or, anywhere:    PYTHONPATH=src python benchmarks/gpu.py --out DIR

Needs torch alone: no package index, no pytest, none of our other dependencies. What else is
installed is used: pytorchvideo (its networks) and ffpa_attn (its kernel for wide heads). Writes
DIR/gpu.json after every row, so that nothing is lost when the time is over. The parts:

1. `checks`: every implementation on the GPU against the formula in float64 on the CPU, forward and
   gradients, in three precisions, with masks and odd sizes; networks against themselves on the CPU;
   torch.compile and CUDA graphs against the eager network.
2. `softmax`: at the paper's largest maps, our implementations against each kernel of torch's
   attention, FlexAttention and ffpa, with the share of the rate of a large matrix product.
3. `linear`: dot product and concatenation against the textbook form.
4. `networks`: inference and training of C2D and I3D with and without blocks, as they come, in
   channels-last, compiled and as CUDA graphs, against pytorchvideo.

A case that fails is a row with its error. Cases that did not fit into the time are counted.
`--device cpu --smoke-test` tries the script with small sizes where there is no GPU; its times mean
nothing.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import nonlocalnet as nl
from measure import machine, once, peak_mib
from nonlocalnet.ops.plan import IMPLEMENTATIONS_OF

Row = dict[str, Any]
Case = tuple[Row, Callable[[], Row]]
HALF, SINGLE = torch.bfloat16, torch.float32
# torch.nn.attention's kernels; cuDNN's is offered on recent GPUs only
KERNELS = {
    "torch flash": SDPBackend.FLASH_ATTENTION,
    "torch cudnn": SDPBackend.CUDNN_ATTENTION,
    "torch efficient": SDPBackend.EFFICIENT_ATTENTION,
}
PARTS = ("checks", "softmax", "linear", "networks")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="of everything")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--smoke-test", action="store_true", help="small sizes")
    options = parser.parse_args()
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here. To try the script: --device cpu --smoke-test")
        return 1
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    end = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    results: Row = {"machine": machine(device), "smoke_test": options.smoke_test}
    if device == "cuda":
        results |= {
            "capability": torch.cuda.get_device_capability(),
            "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    results["rates_tflops"] = {
        str(dtype): ceiling(dtype, device, options.smoke_test) for dtype in (HALF, SINGLE)
    }
    print(json.dumps(results))
    left_out = 0
    for part in options.parts:
        results[part] = rows = []
        for case, measure in globals()[part](device, options.smoke_test):
            if time.monotonic() > end:
                left_out += 1
                continue
            try:
                row = case | measure()
            except Exception as error:  # a kernel that is not offered, memory that does not suffice
                row = case | {"error": f"{type(error).__name__}: {str(error)[:200]}"}
            rows.append(row)
            print(json.dumps(row), flush=True)
            results["left_out_for_time"] = left_out
            (options.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    results["left_out_for_time"] = left_out
    (options.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    wrong = [row for row in results.get("checks", []) if not row.get("right", False)]
    print(f"{len(wrong)} of {len(results.get('checks', []))} checks failed; {left_out} left out")
    return int(bool(wrong))


def ceiling(dtype: torch.dtype, device: str, small: bool) -> float:
    """The rate of a large matrix product, TFLOP/s."""
    size = 256 if small else 8192
    x = torch.randn(size, size, dtype=dtype, device=device)
    return 2 * size**3 / best({"product": lambda: x @ x}, device)["product"] / 1e9


def best(functions: dict[str, Callable], device: str, seconds: float = 1.0) -> dict[str, float]:
    """Milliseconds of each, taking turns: the best of 3 to 30 rounds."""
    for function in functions.values():
        function()  # compiles, chooses kernels
    found = dict.fromkeys(functions, math.inf)
    started, rounds = time.monotonic(), 0
    while rounds < 3 or (rounds < 30 and time.monotonic() - started < seconds):
        for name, function in functions.items():
            found[name] = min(found[name], once(function, device))
        rounds += 1
    return found


def forward_and_both(compute: Callable, tensors: list[Tensor], grad: Tensor, device: str) -> Row:
    """Milliseconds of forward without gradients and of forward + backward, and the peak."""

    def forward() -> None:
        with torch.no_grad():
            compute(*tensors)

    def both() -> None:
        torch.autograd.grad(compute(*tensors), tensors, grad)

    found = best({"forward": forward, "both": both}, device)
    row = {"forward_ms": found["forward"], "both_ms": found["both"]}
    return row | ({"peak_mib": peak_mib(both, device)} if device == "cuda" else {})


# --- checks


def checks(device: str, small: bool) -> Iterator[Case]:
    sizes = [(2, 131, 150, 64), (1, 200, 70, 256), (1, 130, 96, 512), (2, 33, 17, 24)]
    for form, names in IMPLEMENTATIONS_OF.items():
        for name, dtype, size in itertools.product(names, (SINGLE, HALF, torch.float16), sizes):
            if name == "triton" and (device != "cuda" or form == "gaussian"):
                continue
            if small and (dtype == torch.float16 or size[3] > 64):
                continue
            case = {"form": form, "implementation": name, "dtype": str(dtype), "size": size}
            yield case, lambda f=form, i=name, t=dtype, s=size: check(f, i, t, s, device)
    for name in ("c2d_tiny_nl2", "i3d_small_nl2"):
        for way in ("eager", "channels last", "compiled", "graph"):
            if device == "cuda" or way in ("eager", "channels last"):
                case = {"network": name, "way": way}
                yield case, lambda n=name, w=way: check_network(n, w, device)


def check(form: str, implementation: str, dtype: torch.dtype, size: tuple, device: str) -> Row:
    """Compare with the formula in float64; allowed is twice the error of it in this precision."""
    b, n, m, d = size
    draw = torch.Generator().manual_seed(0)
    shapes = [(b, n, d), (b, m, d), (b, m, d), (b, n, d)]
    given = [torch.randn(s, generator=draw) for s in shapes]
    weight = torch.randn(2 * d, generator=draw) * d**-0.5
    mask = torch.arange(m)[None].expand(b, m) < m - 3

    def compute(dtype: torch.dtype, device: str, implementation: str) -> list[Tensor]:
        theta, phi, g, grad = (x.to(dtype).to(device) for x in given)
        leaves = [x.requires_grad_() for x in (theta, phi, g)]
        options: Row = {"mask": mask.to(device), "implementation": implementation}
        if form == "concatenation":
            options["w_f"] = weight.to(dtype).to(device)
        y = nl.non_local(*leaves, form, memory_budget=2**18, **options)
        return [y, *torch.autograd.grad(y, leaves, grad)]

    for i, x in enumerate(given):  # what this precision can represent
        given[i] = x.to(dtype).double()
    weight = weight.to(dtype).double()
    right = compute(torch.float64, "cpu", "reference")
    plain = compute(dtype, "cpu", "reference")
    ours = compute(dtype, device, implementation)
    unit = torch.finfo(dtype).eps
    row: Row = {"right": True}
    for name, a, p, x in zip(("y", "dtheta", "dphi", "dg"), ours, plain, right, strict=True):
        error, theirs = ((v.cpu().double() - x).abs().max().item() for v in (a, p))
        bound = 2 * theirs + 4 * unit * x.abs().max().item()
        row[name] = error / x.abs().max().item()
        row["right"] &= a.dtype == dtype and error <= bound
    return row


def check_network(name: str, way: str, device: str) -> Row:
    torch.manual_seed(0)
    network = nl.create_model(name, num_classes=5, crop=64).eval()
    for module in network.modules():
        if isinstance(module, nl.NonLocalBlock):
            nn.init.normal_(module.w_z.weight, std=0.1)
            if module.norm is not None:
                nn.init.constant_(module.norm.weight, 0.5)
    frames = int(str(network.config["clip"]).partition("x")[0])
    clip = torch.randn(2, 3, frames, 64, 64)
    with torch.no_grad():
        right = copy.deepcopy(network).double()(clip.double())
        found = inference(network.to(device), clip.to(device), way)()
    error = (found.cpu().double() - right).abs().max().item() / right.std().item()
    return {"error": error, "right": error < 1e-2}  # TF32 may be on in convolutions


# --- the operation


def softmax(device: str, small: bool) -> Iterator[Case]:
    sizes = [(8, 3136, 784), (8, 12544, 3136)] if not small else [(1, 64, 16)]
    for d, (batch, n, m), dtype in itertools.product((128, 256, 512), sizes, (HALF, SINGLE)):
        if dtype == SINGLE and (n, m) != sizes[0][1:]:
            continue
        kind = {"dtype": dtype, "device": device}
        case: Row = {"d": d, "n": n, "m": m, "batch": batch, "dtype": str(dtype)}
        for name, compute in attentions(d, device).items():

            def measure(compute: Callable = compute, size: Row = case, kind: Row = kind) -> Row:
                b, n, m, d = (size[key] for key in ("batch", "n", "m", "d"))
                theta, phi, g, grad = (torch.randn(b, k, d, **kind) for k in (n, m, m, n))
                leaves = [x.requires_grad_() for x in (theta, phi, g)]
                row = forward_and_both(compute, leaves, grad, device)
                product = 2 * b * n * m * d / 1e9  # GFLOP: 2 products forward, 5 backward
                rates = {"forward": 2 * product / row["forward_ms"]}
                rates["both"] = 7 * product / row["both_ms"]
                return row | {f"{key}_tflops": rate for key, rate in rates.items()}

            yield case | {"name": name}, measure


def attentions(d: int, device: str) -> dict[str, Callable]:
    """Ways to compute softmax(theta phi^T / sqrt(d)) g for (B, N, d) tensors."""
    scale = d**-0.5

    def ours(implementation: str) -> Callable:
        def compute(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
            options: Row = {"scale": scale, "implementation": implementation}
            return nl.non_local(theta, phi, g, "embedded_gaussian", **options)

        return compute

    def torchs(backend: SDPBackend) -> Callable:
        def compute(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                heads = (x.unsqueeze(1) for x in (theta, phi, g))
                return F.scaled_dot_product_attention(*heads, scale=scale).squeeze(1)

        return compute

    def textbook(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        return (theta @ phi.mT * scale).softmax(2) @ g

    found: dict[str, Callable] = {"ours auto": ours("auto"), "ours chunked": ours("chunked")}
    if device == "cuda":
        found |= {"ours triton": ours("triton"), "ours fused": ours("fused")}
        found |= {name: torchs(backend) for name, backend in KERNELS.items()}
        found["FlexAttention"] = flex(scale)
    if importlib.util.find_spec("ffpa_attn"):
        found["ffpa"] = ffpa(scale)
    return found | {"textbook": textbook}


def flex(scale: float) -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def compute(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        return compiled(*(x.unsqueeze(1) for x in (theta, phi, g)), scale=scale).squeeze(1)

    return compute


def ffpa(scale: float) -> Callable:
    import ffpa_attn

    def compute(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        heads = (x.unsqueeze(1) for x in (theta, phi, g))
        return ffpa_attn.ffpa_attn_func(*heads, scale=scale).squeeze(1)

    return compute


def linear(device: str, small: bool) -> Iterator[Case]:
    sizes = [(8, 3136, 784), (8, 12544, 3136)] if not small else [(1, 64, 16)]
    for form, d, (batch, n, m) in itertools.product(
        ("dot_product", "concatenation"), (128, 256, 512), sizes
    ):
        for name in ("ours", "textbook"):
            case: Row = {"form": form, "d": d, "n": n, "m": m, "batch": batch, "name": name}

            def measure(case: Row = case) -> Row:
                b, n, m, d = (case[key] for key in ("batch", "n", "m", "d"))
                kind = {"dtype": HALF, "device": device}
                theta, phi, g, grad = (torch.randn(b, k, d, **kind) for k in (n, m, m, n))
                weight = torch.randn(2 * d, **kind) * d**-0.5
                leaves = [x.requires_grad_() for x in (theta, phi, g)]

                def ours(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
                    extra = {"w_f": weight} if case["form"] == "concatenation" else {}
                    return nl.non_local(theta, phi, g, case["form"], **extra)

                def textbook(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
                    if case["form"] == "dot_product":
                        return (theta @ phi.mT / phi.shape[1]) @ g
                    a, b = weight.chunk(2)
                    f = ((theta @ a).unsqueeze(2) + (phi @ b).unsqueeze(1)).relu()
                    return (f / phi.shape[1]) @ g

                compute = ours if case["name"] == "ours" else textbook
                return forward_and_both(compute, leaves, grad, device)

            yield case, measure


# --- networks


def networks(device: str, small: bool) -> Iterator[Case]:
    names = ("c2d_r50", "c2d_r50_nl5", "i3d_r50", "i3d_r50_nl5")
    if small:
        names = ("c2d_tiny_nl2",)
    ways = ["eager", "channels last", *(["graph", "compiled"] if device == "cuda" else [])]
    for name, way in itertools.product(names, ways):
        case: Row = {"network": name, "way": way, "dtype": "bf16 autocast", "project": "ours"}
        clips = 1 if small else 8
        if way in ("eager", "channels last"):
            yield (
                case | {"step": "training"},
                lambda n=name, w=way, c=clips: training(nl.create_model(n), n, w, c, device),
            )
        yield (
            case | {"step": "inference"},
            lambda n=name, w=way, c=clips: inferring(nl.create_model(n), n, w, c, device),
        )
    if importlib.util.find_spec("pytorchvideo") and not small:
        for name, way in itertools.product(("c2d_r50", "i3d_r50"), ("eager", "channels last")):
            case = {"network": name, "way": way, "dtype": "bf16 autocast"}
            case["project"] = "pytorchvideo"
            for step, measure in (("training", training), ("inference", inferring)):
                yield (
                    case | {"step": step},
                    lambda n=name, w=way, m=measure: m(pytorchvideo(n), n, w, 8, device),
                )


def pytorchvideo(name: str) -> nn.Module:
    from pytorchvideo.models import hub

    return getattr(hub, name)(pretrained=False)


def make_clip(name: str, clips: int, device: str) -> Tensor:
    config = nl.create_model(name).config
    frames = int(str(config["clip"]).partition("x")[0])
    return torch.randn(clips, 3, frames, *(2 * (config.get("crop", 224),)), device=device)


def inference(network: nn.Module, clip: Tensor, way: str) -> Callable[[], Tensor]:
    """A function that computes the network in one of the ways, in the autocast that is on."""
    if way == "channels last":
        network = network.to(memory_format=torch.channels_last_3d)
        clip = clip.to(memory_format=torch.channels_last_3d)
    if way == "compiled":
        network = torch.compile(network)
    if way != "graph":
        return lambda: network(clip)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            network(clip)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        y = network(clip)

    def replay() -> Tensor:
        graph.replay()
        return y

    return replay


def inferring(network: nn.Module, name: str, way: str, clips: int, device: str) -> Row:
    clip = make_clip(name, clips, device)
    with torch.no_grad(), torch.autocast(device, HALF, cache_enabled=False):
        compute = inference(network.eval().to(device), clip, way)
        found = best({"network": compute}, device)["network"]
        row = {"ms": found, "clips_per_second": 1000 * clips / found}
        return row | ({"peak_mib": peak_mib(compute, device)} if device == "cuda" else {})


def training(network: nn.Module, name: str, way: str, clips: int, device: str) -> Row:
    """Forward, cross-entropy, backward and SGD with momentum."""
    network = network.train().to(device)
    clip = make_clip(name, clips, device)
    if way == "channels last":
        network = network.to(memory_format=torch.channels_last_3d)
        clip = clip.to(memory_format=torch.channels_last_3d)
    target = torch.arange(clips, device=device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        with torch.autocast(device, HALF):
            loss = F.cross_entropy(network(clip), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    found = best({"network": step}, device)["network"]
    row = {"ms": found, "clips_per_second": 1000 * clips / found}
    return row | ({"peak_mib": peak_mib(step, device)} if device == "cuda" else {})


if __name__ == "__main__":
    sys.exit(main())
