"""Windows over time where the frames of a clip are shared out: they reach over the cuts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nonlocalnet.ops.sharing import Processes, Shares


class SharesFrames:
    """A module with code of its own over time, which communicates if frames are shared out.

    Attributes:
        processes: over which frames are shared out; `nl.share_frames` sets them.
    """

    processes: Processes | None = None

    def check_shared(self) -> None:
        """Raise a ValueError if frames cannot be shared out."""

    def check_whole(self, what: str) -> None:
        """Raise a ValueError if frames are shared out now."""
        if self.processes is not None:
            raise ValueError(
                f"{what} needs the frames of all processes: call nl.share_frames(network, None), "
                "and give it all frames"
            )


class Window(NamedTuple):
    """Windows over time, of a convolution or a pooling.

    Attributes:
        size: frames of a window, from the first to the last that it reads.
        stride: frames from one window to the next.
        before, after: frames of padding.
        ceil: whether the last window may reach over the end.
    """

    size: int
    stride: int = 1
    before: int = 0
    after: int = 0
    ceil: bool = False

    def count(self, frames: int) -> int:
        """Count the windows of a clip."""
        room = frames + self.before + self.after - self.size
        count = (room + (self.stride - 1 if self.ceil else 0)) // self.stride + 1
        if self.ceil and (count - 1) * self.stride >= frames + self.before:
            count -= 1  # the last one would begin behind the clip
        return max(count, 0)

    def results(self, shares: Shares) -> list[range]:
        """Share out the results: the t-th one goes to the process that has frame stride · t.

        Raises:
            ValueError: a process would have none.
        """
        count, stride = self.count(shares.total), self.stride
        stops = [min(-(-span.stop // stride), count) for span in shares.spans]
        stops[-1] = count
        results = [range(a, b) for a, b in zip([0, *stops], stops, strict=False)]
        if not all(results):
            none = next(rank for rank, some in enumerate(results) if not some)
            raise ValueError(
                f"each process must have frames of every layer; of shares of {list(shares.sizes)} "
                f"frames, process {none} would have none after a layer with windows of "
                f"{self.size} frames and stride {stride} in time: take fewer processes or more "
                "frames"
            )
        return results

    def frames(self, results: range, total: int) -> range:
        """Tell the frames of a clip from which a layer computes these results, and maybe others."""
        first = max(results.start * self.stride - self.before, 0) // self.stride * self.stride
        last = results[-1] * self.stride - self.before + self.size
        return range(first, min(max(last, first + 1), total))


def over_cuts(
    compute: Callable[[Tensor], Tensor], x: Tensor, window: Window, processes: Processes
) -> Tensor:
    """Compute windows over frames that are shared out.

    Args:
        compute: the layer, which pads its input itself.
        x: (B, C, T, ...) own frames.
        window: of the layer.
        processes: that have the frames.

    Returns:
        The own share of what the layer computes of all frames, equal to one process.
    """
    shares, results, wanted = _share_windows(x, window, processes, masked=False)
    frames = processes.fetch(x, 2, shares, wanted)
    own, first = results[processes.rank], wanted[processes.rank].start // window.stride
    # results before and behind these have the padding of a cut
    return compute(frames).narrow(2, own.start - first, len(own))


def cells_over_cuts(
    x: Tensor, mask: Tensor | None, factor: int, processes: Processes
) -> tuple[Tensor, Tensor | None]:
    """Fetch the frames of the own cells, of `factor` frames each, that will be pooled.

    Args:
        x: (B, C, T, ...) own frames.
        mask: (B, T, ...) or None.
        factor: frames of a cell.
        processes: that have the frames.
    """
    window = Window(factor, factor)
    shares, _, wanted = _share_windows(x, window, processes, masked=mask is not None)
    if shares.masked:
        mask = x.new_ones(x[:, 0].shape, dtype=torch.bool) if mask is None else mask
        mask = processes.fetch(mask, 1, shares, wanted)
    return processes.fetch(x, 2, shares, wanted), mask


def _share_windows(
    x: Tensor, window: Window, processes: Processes, masked: bool
) -> tuple[Shares, list[range], list[range]]:
    """Share out the results of windows, and tell which frames each process needs for its own."""
    rest = (*x.shape[:2], *x.shape[3:])
    alike = {"computes": window, "of": rest, "dtype": x.dtype}
    shares = processes.agree(alike, x.shape[2], grad=x.requires_grad, masked=masked)
    results = window.results(shares)
    return shares, results, [window.frames(some, shares.total) for some in results]
