"""Choose the implementation that computes an input, and say why.

The thresholds were measured: see benchmarks/operation.py and docs/operation.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch

from nonlocalnet.errors import check_choice
from nonlocalnet.ops.pairwise import FUNCTIONS
from nonlocalnet.ops.precision import product_dtype, wide

Implementation = Literal["auto", "reference", "linear", "sorted", "fused", "chunked", "triton"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)
SOFTMAX_IMPLEMENTATIONS = ("auto", "reference", "fused", "chunked", "triton")
IMPLEMENTATIONS_OF: dict[str, tuple[str, ...]] = {
    "gaussian": SOFTMAX_IMPLEMENTATIONS,
    "embedded_gaussian": SOFTMAX_IMPLEMENTATIONS,
    "dot_product": ("auto", "reference", "linear"),
    "concatenation": ("auto", "reference", "sorted"),
}

MIB = 2**20
BUDGET = 128 * MIB  # bytes of N x M-shaped tensors at a time
CPU_CHUNK = 2**21  # most scores in a chunk, so that they stay in a processor's cache
CPU_FUSED_FROM = 500_000  # pairs from which torch's attention is faster without gradients
SORTED_FROM = {"cpu": 200_000}  # pairs of a sample from which sorting is faster
GPU_SORTED_FROM = 5_000_000  # the same, estimated and not measured
CUDA_FUSED_WIDTH = 256  # the widest head that torch's fast kernels take
CAUSAL = {  # how an implementation computes the causal extent, if not frame by frame
    "linear": "running sums over frames",
    "sorted": "sums over halves of the frames",
}


def recording() -> bool:
    """Tell whether an export or a trace is recording a program for inputs of any size.

    The program may use only torch's operators and must not depend on the example's sizes.
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


@dataclass(frozen=True)
class Plan:
    """How `non_local` computes an input.

    Attributes:
        implementation: its name, as `implementation=` takes it.
        why: the reason.
        dtype: of the products. Sums and scores are at least float32, except bfloat16 scores on
            a CPU with bfloat16 units.
        rows: queries per chunk, for "chunked" and "triton".
        matrix_bytes: estimate of what matrices take at a time, in forward and backward: scores and
            weights, or the summaries of the frames of a causal dot product.
    """

    implementation: str
    why: str
    dtype: torch.dtype
    rows: int | None = None
    matrix_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.implementation}: {self.why}"


class Size(NamedTuple):
    """Numbers of samples (one per head), queries N, keys M, channels d and c, and causal frames."""

    batch: int
    n: int
    m: int
    d: int
    c: int
    frames: int | None = None

    @property
    def pairs(self) -> int:
        """Number of pairs of a query and a key that it sees, in one sample."""
        pairs = self.n * self.m
        return pairs if self.frames is None else pairs * (self.frames + 1) // (2 * self.frames)

    @property
    def queries(self) -> int:
        """Number of queries that are computed together."""
        return self.n if self.frames is None else self.n // self.frames


Choice = tuple[str, str]


def check_implementation(pairwise: str, implementation: str, memory_budget: int | None) -> None:
    """Raise if the pairwise function has no such implementation, or the budget is below 1."""
    check_choice("implementation", implementation, IMPLEMENTATIONS)
    if implementation not in IMPLEMENTATIONS_OF[pairwise]:
        allowed = ", ".join(map(repr, IMPLEMENTATIONS_OF[pairwise]))
        raise ValueError(
            f"implementation must be one of {allowed} for pairwise={pairwise!r}; "
            f"got {implementation!r}"
        )
    if memory_budget is not None and memory_budget < 1:
        raise ValueError(f"memory_budget must be at least 1 (bytes); got {memory_budget!r}")


def choose(
    pairwise: str,
    size: tuple[int, int, int, int, int],
    *,
    dtype: torch.dtype,
    device: str,
    grad: bool = True,
    heads: int = 1,
    frames: int | None = None,
    implementation: str = "auto",
    memory_budget: int | None = None,
) -> Plan:
    """Choose the implementation for θ (B, N, d), φ (B, M, d), g (B, M, c), size = (B, N, M, d, c).

    Heads are samples of narrower channels. With `frames`, the frame-causal extent, the queries of
    a frame are computed with the keys that they see, frame after frame.

    This is the reference where its matrix fits the budget and nothing is faster; otherwise an
    implementation without the matrix ("linear", "sorted", "fused") or with one chunk of it at a
    time ("chunked"). An export or a trace replaces implementations that use our own operators by
    the one that "auto" takes there.

    Raises:
        ValueError: this pairwise function has no such implementation, or the budget is below 1.
    """
    check_implementation(pairwise, implementation, memory_budget)
    budget = BUDGET if memory_budget is None else memory_budget
    batch, n, m, d, c = size
    sizes = Size(batch * heads, n, m, d // heads, c // heads, frames)
    why = "asked for"
    if recording():
        implementation = implementation if implementation in ("reference", "linear") else "auto"
    elif 0 in size or (device == "meta" and implementation == "auto"):
        implementation, why = "reference", "nothing to compute"
    if implementation == "auto":
        fastest = {"dot_product": _dot_product, "concatenation": _concatenation}
        take = fastest.get(pairwise, _softmax)
        implementation, why = take(sizes, dtype, device, grad, budget)
    if frames is not None and not recording():
        why += f"; {CAUSAL.get(implementation, 'frame by frame, without a mask')}"
    products = _products(pairwise, implementation, dtype, device)
    rows, kept = None, 0
    if implementation in ("chunked", "triton"):
        rows = _rows(sizes, products, device, budget)
        kept = 3 * sizes.batch * rows * m * products.itemsize
    elif implementation == "reference":
        kept = _matrix_bytes(sizes, products)
    elif implementation == "linear":
        kept = _summary_bytes(sizes, wide(products))
    return Plan(implementation, why, products, rows, kept)


def _softmax(size: Size, dtype: torch.dtype, device: str, grad: bool, budget: int) -> Choice:
    d, c = size.d, size.c
    if recording():
        return "fused", "exported as torch's attention, for any size"
    products = _products("gaussian", "reference", dtype, device)
    fits = _matrix_bytes(size, products) <= budget
    if device == "cuda":
        narrow = max(d, c) <= CUDA_FUSED_WIDTH and d % 8 == c % 8 == 0
        if narrow and dtype != torch.float64:
            return "fused", f"torch has fast kernels for heads up to {CUDA_FUSED_WIDTH}"
        if dtype.itemsize == 2:
            return "chunked", "no fast kernel of torch takes this head; scores stay in float32"
        return (
            ("reference", _FITS) if fits else ("chunked", "torch has no fast kernel for this head")
        )
    fused = device == "cpu" and d == c and products.itemsize > 2
    if fused and not grad and size.batch * size.pairs >= CPU_FUSED_FROM:
        return "fused", "without gradients torch's attention is faster at this size"
    if fits:
        return "reference", _FITS
    if fused:
        return "fused", _TOO_LARGE
    return "chunked", f"{_TOO_LARGE}, and torch's attention is not fused for this input"


def _dot_product(size: Size, dtype: torch.dtype, device: str, grad: bool, budget: int) -> Choice:
    if recording():
        return "linear", "exported in the order that needs no matrix, for any size"
    if dtype.itemsize == 2 and device == "cuda":
        return "linear", "two products in half precision, and no matrix"
    linear = (size.n + size.m) * size.d * size.c
    quadratic = size.pairs * (size.d + size.c)
    if linear >= quadratic:
        return "reference", f"{_times(linear, quadratic)}fewer multiply-adds, and a small matrix"
    kept = _summary_bytes(size, wide(dtype))
    if kept > budget and kept > _matrix_bytes(size, wide(dtype)):
        return "reference", "summaries of each frame would exceed the memory budget"
    return "linear", f"{_times(quadratic, linear)}fewer multiply-adds"


def _concatenation(size: Size, dtype: torch.dtype, device: str, grad: bool, budget: int) -> Choice:
    if recording():
        if torch.onnx.is_in_onnx_export():
            return "reference", "ONNX has no search in a sorted list"
        return "sorted", "exported as sort and prefix sums, for any size"
    if _matrix_bytes(size, wide(dtype)) > budget:
        return "sorted", _TOO_LARGE
    limit = SORTED_FROM.get(device, GPU_SORTED_FROM)
    sums, where = 1, ""
    if size.frames is not None:  # each sum sorts its own keys
        sums, where = 2 * size.frames - 1, " in each sum"
    if size.pairs >= limit * sums:
        return "sorted", f"faster from {limit:,} pairs on{where}"
    return "reference", f"faster below {limit:,} pairs{where}"


def _times(more: int, less: int) -> str:
    # to a compiler, dynamic sizes are not numbers
    return "" if torch.compiler.is_compiling() else f"{more / less:.1f} times "


_FITS = "its matrix fits the memory budget, and it is the fastest that has gradients"
_TOO_LARGE = "the reference's matrix would exceed the memory budget"


def _products(pairwise: str, implementation: str, dtype: torch.dtype, device: str) -> torch.dtype:
    if FUNCTIONS[pairwise].relu:  # rounding a_i + b_j would change the relu's sign
        return wide(dtype)
    if implementation == "fused" and device == "cpu":  # slower in half precision than "chunked"
        return wide(dtype)
    if (
        implementation == "reference" and device != "cpu"
    ):  # its scores would be rounded to half, or overflow
        return wide(dtype)
    return product_dtype(dtype, device)


def _matrix_bytes(size: Size, dtype: torch.dtype) -> int:
    """Count the bytes of all scores, weights and the gradient of one of them."""
    return 3 * size.batch * size.pairs * dtype.itemsize


def _summary_bytes(size: Size, dtype: torch.dtype) -> int:
    """Count the bytes of the summaries of causal frames, their running sums and the gradient."""
    frames = 0 if size.frames is None else size.frames
    return 3 * size.batch * frames * size.d * size.c * dtype.itemsize


def _rows(size: Size, dtype: torch.dtype, device: str, budget: int) -> int:
    row = max(size.batch * size.m, 1)
    rows = budget // (3 * row * max(dtype.itemsize, 4))
    if device == "cpu":
        rows = min(rows, CPU_CHUNK // row)
    return max(1, min(size.queries, rows))
