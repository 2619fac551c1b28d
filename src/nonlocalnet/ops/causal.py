"""Frame-causal extent: a query sees the keys of its own frame and of all earlier frames.

Positions are ordered frame by frame: of N queries in T frames, the first N/T are those of frame 0,
and likewise the keys. No N x M mask is made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nonlocalnet.ops.plan import recording


def frame_by_frame(
    compute: Callable[..., Tensor],
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    mask: Tensor | None,
    frames: int | None,
) -> Tensor:
    """Call compute(theta, phi, g, mask) for the queries of each frame with the keys they see.

    theta (B, N, d), phi (B, M, d), g (B, M, c), mask (B, M) -> (B, N, c). The arguments of the
    calls are views. Without frames, one call has all.
    """
    if frames is None:
        return compute(theta, phi, g, mask)
    if recording():
        return _frames_as_samples(compute, theta, phi, g, mask, frames)
    parts = []
    for t, queries in enumerate(theta.unflatten(1, (frames, -1)).unbind(1), start=1):
        keys = slice(t * (phi.shape[1] // frames))
        real = None if mask is None else mask[:, keys]
        parts.append(compute(queries, phi[:, keys], g[:, keys], real))
    return torch.cat(parts, dim=1)


def _frames_as_samples(
    compute: Callable[..., Tensor],
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    mask: Tensor | None,
    frames: int,
) -> Tensor:
    """Compute the same in one call for any number of frames: all keys, masked, for each frame."""
    every = torch.arange(frames, device=phi.device)
    real = seen(every, phi.shape[1], frames)  # (T, M)
    if mask is not None:
        real = real & mask.unsqueeze(1)  # (B, T, M)
    real = real.expand(phi.shape[0], -1, -1).flatten(0, 1)
    phi, g = (x.unsqueeze(1).expand(-1, frames, -1, -1).flatten(0, 1) for x in (phi, g))
    return join_frames(compute(split_frames(theta, frames), phi, g, real), frames)


def split_frames(x: Tensor, frames: int | None) -> Tensor:
    """Make a sample of each frame: (B, N, ...) -> (B·T, N/T, ...); None leaves x as it is."""
    return x if frames is None else x.unflatten(1, (frames, -1)).flatten(0, 1)


def join_frames(x: Tensor, frames: int | None) -> Tensor:
    """Invert `split_frames`: (B·T, n, ...) -> (B, T·n, ...)."""
    return x if frames is None else x.unflatten(0, (-1, frames)).flatten(1, 2)


def seen(frame: Tensor, keys: int, frames: int) -> Tensor:
    """Tell which of M keys a query of each given frame sees: (...,) -> (..., M) booleans."""
    frame_of_key = torch.arange(keys, device=frame.device) // (keys // frames)
    return frame_of_key <= frame.unsqueeze(-1)
