"""Which path computes the operation for which input, and why.

The numbers that decide were measured: benchmarks/operation.py, docs/operation.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from nonlocalnet.errors import check_choice
from nonlocalnet.ops.precision import product_dtype, wide

Path = Literal["auto", "textbook", "associative", "sorted", "fused", "blocks", "triton"]
PATHS: tuple[str, ...] = get_args(Path)
SOFTMAX_PATHS = ("auto", "textbook", "fused", "blocks", "triton")
PATHS_OF: dict[str, tuple[str, ...]] = {
    "gaussian": SOFTMAX_PATHS,
    "embedded_gaussian": SOFTMAX_PATHS,
    "dot_product": ("auto", "textbook", "associative"),
    "concatenation": ("auto", "textbook", "sorted"),
}

MIB = 2**20
BUDGET = 128 * MIB  # of N x M numbers at a time
CPU_BLOCK = 2**21  # numbers in a block of scores, beyond which a processor's cache is lost
CPU_FUSED_FROM = 500_000  # pairs, from which torch's attention is faster without gradients
SORTED_FROM = {"cpu": 200_000}  # pairs of a sample, from which sorting is faster
GPU_SORTED_FROM = 5_000_000  # the same, from a model: not measured
CUDA_FUSED_WIDTH = 256  # the widest head that torch's fast kernels take


def recording() -> bool:
    """Tell whether a program for inputs of any size is being made, by an export or a trace.

    It needs torch alone, and what it does must not hang on the sizes of the example.
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


@dataclass(frozen=True)
class Plan:
    """How an operation is computed.

    Attributes:
        path: the path's name, as `path=` takes it.
        why: the reason, in a few words.
        dtype: of the products; sums and scores are float32 at least, but for bfloat16 scores
            where a CPU multiplies bfloat16 itself.
        rows: queries in a block, for the paths "blocks" and "triton".
        matrix_bytes: about what N x M-shaped tensors take at a time, forward and backward.
    """

    path: str
    why: str
    dtype: torch.dtype
    rows: int | None = None
    matrix_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def check_path(pairwise: str, path: str, memory_budget: int | None) -> None:
    """Refuse a path that the pairwise function does not have, and a budget below one byte."""
    check_choice("path", path, PATHS)
    if path not in PATHS_OF[pairwise]:
        allowed = ", ".join(map(repr, PATHS_OF[pairwise]))
        raise ValueError(f"path must be one of {allowed} for pairwise={pairwise!r}; got {path!r}")
    if memory_budget is not None and memory_budget < 1:
        raise ValueError(f"memory_budget must be at least 1 (bytes); got {memory_budget!r}")


def choose(
    pairwise: str,
    size: tuple[int, int, int, int, int],
    *,
    dtype: torch.dtype,
    device: str,
    grad: bool = True,
    path: str = "auto",
    memory_budget: int | None = None,
) -> Plan:
    """Choose the path for θ (B, N, d), φ (B, M, d), g (B, M, c), size = (B, N, M, d, c).

    The textbook form where its matrix fits the budget and nothing is faster; else the form that
    needs no matrix (dot product, concatenation), torch's fused attention, or query blocks. In an
    export or a trace, a path that no program could hold gives way to what "auto" takes there.

    Raises:
        ValueError: a path that this pairwise function does not have, or a budget below one byte.
    """
    check_path(pairwise, path, memory_budget)
    budget = BUDGET if memory_budget is None else memory_budget
    why = "asked for"
    if recording():
        path = path if path in ("textbook", "associative") else "auto"
    elif 0 in size or (device == "meta" and path == "auto"):
        path, why = "textbook", "nothing to compute"
    if path == "auto":
        fastest = {"dot_product": _dot_product, "concatenation": _concatenation}
        path, why = fastest.get(pairwise, _softmax)(size, dtype, device, grad, budget)
    products = _products(pairwise, path, dtype, device)
    if path in ("blocks", "triton"):
        rows = _rows(size, products, device, budget)
        return Plan(path, why, products, rows, _matrix_bytes(size, products, rows))
    whole = path == "textbook"
    return Plan(path, why, products, None, _matrix_bytes(size, products) if whole else 0)


Size = tuple[int, int, int, int, int]
Choice = tuple[str, str]


def _softmax(size: Size, dtype: torch.dtype, device: str, grad: bool, budget: int) -> Choice:
    batch, n, m, d, c = size
    if recording():
        return "fused", "exported as torch's attention, whatever the sizes"
    fits = _matrix_bytes(size, _products("gaussian", "textbook", dtype, device)) <= budget
    if device == "cuda":
        narrow = max(d, c) <= CUDA_FUSED_WIDTH and d % 8 == c % 8 == 0
        if narrow and dtype != torch.float64:
            return "fused", f"torch has fast kernels for heads up to {CUDA_FUSED_WIDTH}"
        if dtype.itemsize == 2:
            return "blocks", "no fast kernel of torch takes this head; scores stay in float32"
        return ("textbook", _FITS) if fits else ("blocks", "torch has no fast kernel for this head")
    half = product_dtype(dtype, device).itemsize == 2
    fused = device == "cpu" and d == c and not half
    if fused and not grad and batch * n * m >= CPU_FUSED_FROM:
        return "fused", "without gradients torch's attention is faster at this size"
    if fits:
        return "textbook", _FITS
    if fused:
        return "fused", _TOO_LARGE
    return "blocks", f"{_TOO_LARGE}, and torch's attention is not fused for this input"


def _dot_product(size: Size, dtype: torch.dtype, device: str, grad: bool, budget: int) -> Choice:
    _, n, m, d, c = size
    if recording():
        return "associative", "exported in the order that needs no matrix, whatever the sizes"
    if dtype.itemsize == 2 and device == "cuda":
        return "associative", "two products in half precision, and no matrix"
    linear, quadratic = (n + m) * d * c, n * m * (d + c)
    if linear < quadratic:
        return "associative", f"{_times(quadratic, linear)}fewer multiply-adds"
    return "textbook", f"{_times(linear, quadratic)}fewer multiply-adds, and a small matrix"


def _concatenation(size: Size, dtype: torch.dtype, device: str, grad: bool, budget: int) -> Choice:
    _, n, m, _, _ = size
    if recording():
        if torch.onnx.is_in_onnx_export():
            return "textbook", "ONNX has no search in a sorted list"
        return "sorted", "exported as sort and prefix sums, whatever the sizes"
    if _matrix_bytes(size, wide(dtype)) > budget:
        return "sorted", _TOO_LARGE
    limit = SORTED_FROM.get(device, GPU_SORTED_FROM)
    if n * m >= limit:
        return "sorted", f"faster from {limit:,} pairs on"
    return "textbook", f"faster below {limit:,} pairs"


def _times(more: int, less: int) -> str:
    # sizes that change are no numbers to a compiler
    return "" if torch.compiler.is_compiling() else f"{more / less:.1f} times "


_FITS = "its matrix fits the memory budget, and it is the fastest that has gradients"
_TOO_LARGE = "the textbook's matrix would exceed the memory budget"


def _products(pairwise: str, path: str, dtype: torch.dtype, device: str) -> torch.dtype:
    if pairwise == "concatenation":  # a rounded a_i + b_j is another function
        return wide(dtype)
    if path == "fused" and device == "cpu":  # slower in half precision than blocks
        return wide(dtype)
    if path == "textbook" and device != "cpu":  # its scores would be rounded to half, or overflow
        return wide(dtype)
    return product_dtype(dtype, device)


def _matrix_bytes(size: Size, dtype: torch.dtype, rows: int | None = None) -> int:
    """Scores, weights and the gradient of one of them."""
    batch, n, m, _, _ = size
    return 3 * batch * (n if rows is None else rows) * m * dtype.itemsize


def _rows(size: Size, dtype: torch.dtype, device: str, budget: int) -> int:
    batch, n, m, _, _ = size
    row = max(batch * m, 1)
    rows = budget // (3 * row * max(dtype.itemsize, 4))
    if device == "cpu":
        rows = min(rows, CPU_BLOCK // row)
    return max(1, min(n, rows))
