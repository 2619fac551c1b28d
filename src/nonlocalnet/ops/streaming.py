"""Frames that arrive one after another: what is kept of the frames before them.

A `Past` keeps it for one module. Its results are those of the frame-causal extent (`causal.py`) on
all frames so far, to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from nonlocalnet.ops import dot_product
from nonlocalnet.ops.dispatch import of_last_frames
from nonlocalnet.ops.precision import common_dtype, product_dtype, wide, without_autocast
from nonlocalnet.options import Pairwise


class Past:
    """What a module keeps of the frames so far.

    Attributes:
        window: the number of frames that count, new ones included; None is all.
        tensors: what is kept, by name. They are replaced, never changed in place.
        first: what all frames of a stream have in common, as the first ones had it.
        calls: how often it was called since the stream was entered.
    """

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self.tensors: dict[str, Tensor] = {}
        self.first: dict[str, Any] = {}
        self.calls = 0

    def state(self) -> dict[str, Any]:
        """Return all of it, as a dictionary that does not change when the stream goes on."""
        return {"kind": self.kind(), "tensors": dict(self.tensors), "first": dict(self.first)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.tensors, self.first = dict(state["tensors"]), dict(state["first"])

    def kind(self) -> str:
        """Say what is kept: states of another kind do not fit."""
        window = "" if self.window is None else f", window={self.window}"
        return f"{type(self).__name__}{window}"

    def check(self, x: Tensor, **sizes: int) -> None:
        """Raise a ValueError unless frames are like the first: dtype and device of x, and sizes."""
        self.calls += 1
        now = {**sizes, "dtype": x.dtype}
        self.first = self.first or now
        if now != self.first:
            before, after = (
                ", ".join(f"{key} {value}" for key, value in one.items() if value != other[key])
                for one, other in ((self.first, now), (now, self.first))
            )
            raise ValueError(
                f"the frames of a stream must be alike: it began with {before}; got {after}; "
                "call reset() to begin another"
            )
        for tensor in self.tensors.values():
            if tensor.device != x.device:
                raise ValueError(
                    f"the stream is on {tensor.device} and its frames are on {x.device}: "
                    f"call to({str(x.device)!r}) on the stream"
                )


class _PastKeys(Past):
    """What a frame-causal operation keeps; it is called like `non_local`, for new frames alone."""

    def check_keys(self, theta: Tensor, phi: Tensor, g: Tensor, frames: int) -> int:
        """Raise unless frames are like the first; return the number of keys of a frame."""
        positions, keys = theta.shape[1] // frames, phi.shape[1] // frames
        self.check(g, batch=g.shape[0], positions=positions, keys=keys)
        return keys


class KeysSoFar(_PastKeys):
    """Keep the keys of all frames, or of the last `window` frames: any pairwise function.

    With a window, a query sees the keys of its own frame and of the window - 1 frames before.
    """

    def __call__(
        self,
        theta: Tensor,
        phi: Tensor,
        g: Tensor,
        pairwise: Pairwise,
        *,
        causal_frames: int,
        mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """theta (B, N, d), phi (B, M, d), g (B, M, c), mask (B, M), all of new frames."""
        own = self.check_keys(theta, phi, g, causal_frames)
        before = self.tensors
        if before:
            phi, g = (torch.cat([before[k], x], 1) for k, x in (("phi", phi), ("g", g)))
        if mask is not None or "mask" in before:
            mask = _join_masks(before.get("mask"), mask, phi)
        window = self.window
        y = of_last_frames(
            theta, phi, g, pairwise, causal_frames, own, window=window, mask=mask, **options
        )
        kept = {"phi": phi, "g": g} | ({} if mask is None else {"mask": mask})
        start = 0 if window is None else max(phi.shape[1] - window * own, 0)
        if start > 0 or not before:  # a view would hold the memory of more than what is kept
            kept = {key: x[:, start:].clone() for key, x in kept.items()}
        self.tensors = kept
        return y


def _join_masks(before: Tensor | None, mask: Tensor | None, phi: Tensor) -> Tensor:
    """Join the masks of past and new keys to (B, M); where there is none, all keys are real."""
    new = phi.shape[1] - (0 if before is None else before.shape[1])
    if mask is None:
        mask = phi.new_ones(phi.shape[0], new, dtype=torch.bool)
    if before is None:
        before = mask.new_ones(phi.shape[0], phi.shape[1] - mask.shape[1])
    return torch.cat([before, mask], dim=1)


class RunningSummary(_PastKeys):
    """Keep Σ_j φ_j g_jᵀ (d x c) and the number of keys: dot product, in constant memory."""

    def __call__(
        self,
        theta: Tensor,
        phi: Tensor,
        g: Tensor,
        pairwise: Pairwise,
        *,
        causal_frames: int,
        mask: Tensor | None = None,
        w_z: Tensor | None = None,
        heads: int = 1,
        **options: Any,
    ) -> Tensor:
        """theta (B, N, d), phi (B, M, d), g (B, M, c), mask (B, M), all of new frames."""
        assert pairwise == "dot_product"
        own = self.check_keys(theta, phi, g, causal_frames)
        dtype = product_dtype(common_dtype(theta, phi, g), g.device.type)
        with without_autocast(g.device.type):
            theta, phi, values = (x.to(dtype) for x in (theta, phi, g))
            add = partial(self._add, share=own if mask is None else 1)
            keys = dot_product.summaries(
                phi, values, mask, heads=heads, frames=causal_frames, add=add
            )
            y = dot_product.from_summaries(theta, keys, causal_frames, w_z=w_z, like=g)
        return y.to(g.dtype)

    def _add(self, sums: Tensor, counts: Tensor, share: int) -> tuple[Tensor, Tensor]:
        """Add the past to running sums and counts, both (B, T, ...), and keep the last of them.

        `share` is the number of keys that a count of 1 stands for.
        """
        sums, counts = (x.to(exact(x)) * share for x in (sums, counts))
        if self.tensors:
            sums, counts = sums + self.tensors["sums"], counts + self.tensors["counts"]
        self.tensors = {"sums": sums[:, -1:].clone(), "counts": counts[:, -1:].clone()}
        return sums, counts


class RunningMean(Past):
    """Average features over all frames so far, or over the last `window` frames."""

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, T, ...) of new frames -> (B, C, ...)."""
        self.check(x, batch=x.shape[0], channels=x.shape[1], positions=prod(x.shape[3:]))
        before = self.tensors
        if self.window is not None:
            frames = torch.cat([before["frames"], x], dim=2) if before else x
            self.tensors = {"frames": frames[:, :, -self.window :].clone()}
            return self.tensors["frames"].mean(dim=2)
        sums = x.sum(dim=2, dtype=exact(x))
        count = torch.tensor(x.shape[2], device=x.device)
        if before:
            sums, count = sums + before["sums"], count + before["count"]
        self.tensors = {"sums": sums, "count": count}
        return (sums / count).to(x.dtype)


def exact(x: Tensor) -> torch.dtype:
    """Return the dtype of sums that grow for ever: float64 wherever the device has it.

    In float32, a sum over a million frames would no longer notice the next one.
    """
    return wide(x.dtype) if x.device.type == "mps" else torch.float64
