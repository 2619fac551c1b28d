"""`nl.explain` and `nl.affinity`, for tensors and for blocks: ours, and accelerated ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, overload

from torch import Tensor, nn

from nonlocalnet import ops
from nonlocalnet.acceleration.attend import Operands
from nonlocalnet.acceleration.observe import compared
from nonlocalnet.acceleration.report import memory, table
from nonlocalnet.blocks.non_local_block import NonLocalBlock
from nonlocalnet.ops.plan import Plan


@dataclass(frozen=True)
class Explained:
    """How a block of a network is computed for an example.

    Attributes:
        path, kind: module path and class name.
        positions: N x M of one sample and head.
        plan: the implementation, the reason, and the memory that N x M-shaped tensors take.
    """

    path: str
    kind: str
    positions: tuple[int, int]
    plan: Plan


class Explanation(tuple[Explained, ...]):
    """Blocks in the order of the network; str() gives a table."""

    def __str__(self) -> str:
        rows = [("block", "class", "N x M", "memory", "implementation")]
        rows += [
            (
                e.path or "(the network)",
                e.kind,
                " x ".join(f"{n:,}" for n in e.positions),
                memory(e.plan.matrix_bytes),
                str(e.plan),
            )
            for e in self
        ]
        return "\n".join(table(rows, right=(2, 3)))


@overload
def explain(theta: nn.Module, phi: object) -> Explanation: ...
@overload
def explain(theta: Tensor, phi: Tensor, *args: Any, **kwargs: Any) -> Plan: ...
def explain(theta: Any, phi: Any, *args: Any, **kwargs: Any) -> Any:
    """Tell which implementation computes an input, and why.

    `explain(theta, phi, g, ...)` is about one call of `nl.non_local`, with its arguments.
    `explain(network, example)` is about every `NonLocalBlock` and every accelerated block that
    runs in the network. Accelerated blocks leave small maps to their own code; the table tells how
    the operation would compute them.

    Args:
        theta, phi, ...: the arguments of `nl.non_local`; or a network and an example of its input:
            a tuple holds its arguments, a dictionary its keyword arguments, and anything else is
            its only argument. The network runs in evaluation mode, without gradients.

    Returns:
        The plan, with the implementation, the reason and the memory (`matrix_bytes`); for a network
        a tuple of them by block, whose str() is a table.

    Raises:
        ValueError: as `nl.non_local`; or no block runs in the network.

    >>> import torch, nonlocalnet as nl
    >>> theta, phi, g = torch.randn(1, 4000, 8), torch.randn(1, 1000, 8), torch.randn(1, 1000, 8)
    >>> print(nl.explain(theta, phi, g, "dot_product"))
    linear: 200.0 times fewer multiply-adds
    >>> network = torch.nn.Sequential(nl.NonLocalBlock(8, dims=2, pairwise="dot_product"))
    >>> print(nl.explain(network, torch.randn(1, 8, 64, 64)))
    block  class                  N x M  memory  implementation
    0      NonLocalBlock  4,096 x 4,096       0  linear: 1024.0 times fewer multiply-adds
    """
    if not isinstance(theta, nn.Module):
        return ops.explain(theta, phi, *args, **kwargs)
    network = theta
    seen = compared(network, phi, *args, **kwargs)
    found = Explanation(
        Explained(
            path=path,
            kind=type(module).__name__,
            positions=(seen[path].theta.shape[1], seen[path].phi.shape[1]),
            plan=_plan(module, seen[path]),
        )
        for path, module in network.named_modules()
        if path in seen
    )
    if not found:
        raise ValueError(
            "network must run a NonLocalBlock or an accelerated block on the example; none ran: "
            "call nl.accelerate(network) first"
        )
    return found


def _plan(module: nn.Module, operands: Operands) -> Plan:
    chosen = {}
    if isinstance(module, NonLocalBlock):
        chosen = {
            "implementation": module.implementation,
            "memory_budget": module.memory_budget,
        }
    return ops.explain(operands.theta, operands.phi, operands.g, **operands.options, **chosen)


@overload
def affinity(theta: nn.Module, phi: object, *, queries: Tensor | None = None) -> Tensor: ...
@overload
def affinity(theta: Tensor, phi: Tensor, *args: Any, **kwargs: Any) -> Tensor: ...
def affinity(theta: Any, phi: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Compute rows of the weights a_ij = f(x_i, x_j) / C(x), so that y_i = Σ_j a_ij g(x_j).

    Rows of the softmax forms sum to one. Rows of the other two do not, and weights of the dot
    product may be negative. `affinity(block, x)` gives the weights of a `NonLocalBlock` or of an
    accelerated block.

    Args:
        theta, phi, pairwise, scale, mask, w_f, heads, causal_frames: as in `nl.non_local`; or a
            block and its input, as in `nl.explain`.
        queries: (Q,) or (B, Q) integers, the positions i whose rows to compute; None is all N.

    Returns:
        (B, Q, M), or (B, heads, Q, M) for several heads, in float32, or float64 for float64 input.
        With queries, only these rows are computed.

    Raises:
        ValueError: as `nl.non_local`; queries are not integers in [0, N); or the module is not one
            block.

    Source: paper, equation 1 and figure 3.

    >>> import torch, nonlocalnet as nl
    >>> theta, phi = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
    >>> rows = nl.affinity(theta, phi, queries=torch.tensor([0, 4]))
    >>> rows.shape, bool(torch.allclose(rows.sum(2), torch.ones(2, 2)))
    (torch.Size([2, 2, 3]), True)
    """
    if not isinstance(theta, nn.Module):
        return ops.affinity(theta, phi, *args, **kwargs)
    seen = compared(theta, phi)
    if len(seen) != 1:
        raise ValueError(
            f"affinity takes one block, a NonLocalBlock or an accelerated one; got a module in "
            f"which {len(seen)} run: pass the block and its own input"
        )
    (operands,) = seen.values()
    return ops.affinity(operands.theta, operands.phi, *args, **operands.options, **kwargs)
