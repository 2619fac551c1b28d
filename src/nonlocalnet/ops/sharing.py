"""Positions shared out over processes: what the processes tell each other and send each other.

Each process of a group has consecutive positions, rank 0 the first ones. Two collectives are
enough: `fetch` (an all-to-all of the rows that others need) and `total` (an all-reduce). Their
gradients are the same collectives, so second derivatives work. torch.distributed.nn.functional has
such functions, but it is deprecated, and what replaces it is private.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from nonlocalnet.ops.plan import recording

TOLD = 4  # numbers that a process tells at a time, so that mixed-up calls are found


class Shares(NamedTuple):
    """How many positions each process has, and what holds for any of them.

    Attributes:
        sizes: of each process.
        grad: whether some process needs gradients of what is fetched.
        masked: whether some process has a mask.
    """

    sizes: tuple[int, ...]
    grad: bool
    masked: bool = False

    @property
    def total(self) -> int:
        """Positions of all processes."""
        return sum(self.sizes)

    @property
    def spans(self) -> list[range]:
        """The positions of each process, counted over all processes."""
        return [range(start, stop) for start, stop in pairwise(accumulate(self.sizes, initial=0))]


class Processes:
    """The processes that positions are shared out over, and this one's rank among them.

    A copy of a module has the same processes; they cannot be pickled.

    Raises:
        ValueError: `group` is not a process group, or this process is not a member of it.
    """

    def __init__(self, group: Any) -> None:
        if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
            outside = dist.is_available() and group == dist.GroupMember.NON_GROUP_MEMBER
            got = "one of other processes" if outside else repr(group)
            raise ValueError(
                "group must be a process group of torch.distributed that this process is a member "
                f"of, such as dist.group.WORLD after dist.init_process_group(); got {got}"
            )
        self.group = group
        self.rank, self.count = dist.get_rank(group), dist.get_world_size(group)
        # told without waiting for a GPU where the group can
        self._tell_on = "cpu" if "cpu" in dist.get_backend_config(group) else "cuda"

    def __deepcopy__(self, memo: object) -> Processes:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "a process group cannot be pickled: call nl.share_frames(network, None) first, or save "
            "the state_dict"
        )

    def agree(
        self, alike: Mapping[str, object], size: int, *, grad: bool, masked: bool = False
    ) -> Shares:
        """Tell all processes the size of the own share; raise in all if others compute differently.

        Args:
            alike: what must be the same in all processes.
            size: number of own positions, at least 1.
            grad: whether the own part of what is fetched needs gradients.
            masked: whether this process has a mask.

        Raises:
            ValueError: `alike` differs, a process has no positions, or a program is exported.
        """
        if recording():
            raise ValueError(
                "an exported program computes in one process: call nl.share_frames(network, None) "
                "before the export, or leave out group"
            )
        grad &= torch.is_grad_enabled()
        alike = {**alike, "gradients enabled": torch.is_grad_enabled()}
        key = zlib.crc32(repr(sorted(alike.items())).encode())
        own = torch.tensor([key, size, grad, masked], device=self._tell_on)
        if self.count > 1:
            told = [torch.empty_like(own) for _ in range(self.count)]
            dist.all_gather(told, own, group=self.group)
            rows = torch.stack(told).tolist()
        else:
            rows = [own.tolist()]
        keys, sizes, grads, masks = zip(*rows, strict=True)
        if len(set(keys)) > 1:
            self._raise_difference(alike)
        if 0 in sizes:
            raise ValueError(f"each process must have at least one position; got {list(sizes)}")
        return Shares(sizes, any(grads), any(masks))

    def _raise_difference(self, alike: Mapping[str, object]) -> None:
        every: list[Any] = [None] * self.count
        dist.all_gather_object(every, {k: repr(v) for k, v in alike.items()}, group=self.group)
        first = every[0]
        for rank, other in enumerate(every):
            names = [key for key in {**first, **other} if first.get(key) != other.get(key)]
            if names:
                texts = (
                    ", ".join(f"{key} {one[key]}" if key in one else f"no {key}" for key in names)
                    for one in (first, other)
                )
                raise ValueError(
                    "the processes of a group must compute the same on shares of the same samples; "
                    f"process 0 has {next(texts)}, and process {rank} has {next(texts)}"
                )

    def fetch(self, x: Tensor, dim: int, shares: Shares, wanted: Sequence[range]) -> Tensor:
        """Fetch the positions that this process wants from those that have them.

        Args:
            x: the own positions, along dim.
            dim: the axis of the positions.
            shares: of the positions.
            wanted: positions that each process wants, counted over all processes.

        Returns:
            Positions `wanted[rank]`. Gradients go back to where they came from, and add up.
        """
        spans, me = shares.spans, self.rank
        own = _overlap(wanted[me], spans[me])
        if shares.grad and not x.requires_grad and x.is_floating_point():
            x = x.detach().requires_grad_()  # the exchange has a gradient in all processes or none
        kept = x.narrow(dim, own.start - spans[me].start, len(own))
        if all(_overlap(some, span) == some for some, span in zip(wanted, spans, strict=True)):
            return kept
        asked = [_overlap(some, spans[me]) for some in wanted]
        given = [len(_overlap(wanted[me], span)) for span in spans]
        asked[me], given[me] = range(0), 0
        parts = [x.narrow(dim, max(r.start - spans[me].start, 0), len(r)) for r in asked]
        rows = torch.cat([part.movedim(dim, 0) for part in parts]).contiguous()
        dtype = rows.dtype
        rows = rows.view(torch.uint8) if dtype == torch.bool else rows
        rows = _Exchange.apply(self.group, rows, [len(r) for r in asked], given)
        rows = rows.view(dtype) if dtype == torch.bool else rows
        pieces = [piece.movedim(0, dim) for piece in rows.split([sum(given[:me]), sum(given[me:])])]
        if x.ndim == 5 and x.stride(1) == 1:  # the result has the memory format of x
            pieces = [p.contiguous(memory_format=torch.channels_last_3d) for p in pieces]
        return torch.cat([pieces[0], kept, pieces[1]], dim)

    def gather_rows(self, row: Tensor, grad: bool, before: bool = False) -> Tensor:
        """Gather a row of numbers of each process, (n,) -> (P, n); or of those before this one."""
        shares = Shares((1,) * self.count, grad)
        wanted = [range(rank if before else self.count) for rank in range(self.count)]
        return self.fetch(row.unsqueeze(0), 0, shares, wanted)

    def total(self, x: Tensor, grad: bool) -> Tensor:
        """Sum tensors of one shape over the processes; the gradient is the sum of theirs.

        Args:
            x: of this process.
            grad: whether some process needs a gradient.
        """
        if self.count == 1:
            return x
        if grad and not x.requires_grad:
            x = x.detach().requires_grad_()
        return _Sum.apply(self.group, x)

    def mean(self, x: Tensor, dim: int) -> Tensor:
        """Average over an axis that is shared out; the others must be the same in all processes."""
        rest = tuple(size for axis, size in enumerate(x.shape) if axis != dim)
        alike = {"computes": "a mean", "of": rest, "dtype": x.dtype}
        shares = self.agree(alike, x.shape[dim], grad=x.requires_grad)
        wide = x.dtype if x.dtype.itemsize > 2 else torch.float32
        return self.total(x.sum(dim, dtype=wide) / shares.total, shares.grad).to(x.dtype)

    def first(self, x: Tensor) -> Tensor:
        """Return the tensor of process 0, of the same shape, without gradients."""
        x = x.detach().clone()
        if self.count > 1:
            dist.broadcast(x, group=self.group, group_src=0)
        return x


class SharedKeys:
    """The keys of an operation, of which each process has a part.

    Args:
        processes: of the group.
        shares: of the keys.
        frames: own frames of the causal extent.
    """

    def __init__(self, processes: Processes, shares: Shares, frames: int | None) -> None:
        self.processes, self.shares, self.frames = processes, shares, frames

    def gather(
        self, phi: Tensor, g: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gather all keys that own queries see: phi (B, M, d), g (B, M, c), mask (B, M)."""
        wanted = [range(self.shares.total)] * self.processes.count
        if self.frames is not None:
            wanted = [range(span.stop) for span in self.shares.spans]
        widths = phi.shape[2], g.shape[2]
        both = self.processes.fetch(torch.cat([phi, g], dim=2), 1, self.shares, wanted)
        if self.shares.masked:
            mask = phi.new_ones(phi.shape[:2], dtype=torch.bool) if mask is None else mask
            mask = self.processes.fetch(mask, 1, self.shares, wanted)
        return *both.split(widths, dim=2), mask

    def add(self, masked: bool) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return the `add` of `dot_product.summaries`: sums and counts of other processes."""
        processes, grad = self.processes, self.shares.grad
        # of a frame without a mask
        keys = 1 if masked else self.shares.sizes[processes.rank] // (self.frames or 1)

        def add(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
            sums, counts = sums * keys, counts * keys
            last = sums[:, -1:], counts[:, -1:]
            row = torch.cat([x.flatten() for x in last])  # one collective for both
            if self.frames is None:
                row = processes.total(row, grad)
            else:
                row = processes.gather_rows(row, grad, before=True).sum(dim=0)
            parts = row.split([x.numel() for x in last])
            others = [part.view(x.shape) for part, x in zip(parts, last, strict=True)]
            if self.frames is None:
                return others[0], others[1]
            return sums + others[0], counts + others[1]

        return add


def share_keys(
    processes: Processes,
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    mask: Tensor | None,
    w_f: Tensor | None,
    frames: int | None,
    **options: object,
) -> SharedKeys:
    """Tell all processes how many keys this one has, of arguments as in `non_local`.

    Raises:
        ValueError: the processes compute different operations, or samples of other shapes.
    """
    alike: dict[str, object] = {"computes": "non_local", **options}
    alike |= {"samples": phi.shape[0], "d": phi.shape[2], "c": g.shape[2]}
    alike |= {"dtypes": (theta.dtype, phi.dtype, g.dtype), "causal": frames is not None}
    if frames is not None:
        alike["keys of a frame"] = phi.shape[1] // frames
    grad = any(x is not None and x.requires_grad for x in (phi, g, w_f))
    shares = processes.agree(alike, phi.shape[1], grad=grad, masked=mask is not None)
    return SharedKeys(processes, shares, frames)


class _Exchange(torch.autograd.Function):
    """Send rows to each process and receive rows from each; the gradients go the other way."""

    @staticmethod
    def forward(ctx, group: Any, rows: Tensor, to: list[int], given: list[int]) -> Tensor:
        ctx.group, ctx.to, ctx.given = group, to, given
        received = rows.new_empty(sum(given), *rows.shape[1:])
        dist.all_to_all_single(received, rows, given, to, group=group)
        return received

    @staticmethod
    def backward(ctx, grad: Tensor):  # ty: ignore
        return None, _Exchange.apply(ctx.group, grad.contiguous(), ctx.given, ctx.to), None, None


class _Sum(torch.autograd.Function):
    """Sum over the processes; a process's gradient is the sum of the gradients of all."""

    @staticmethod
    def forward(ctx, group: Any, x: Tensor) -> Tensor:
        ctx.group = group
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor):  # ty: ignore
        return None, _Sum.apply(ctx.group, grad)


def _overlap(a: range, b: range) -> range:
    start, stop = max(a.start, b.start), min(a.stop, b.stop)
    return range(start, stop) if start < stop else range(b.start, b.start)
