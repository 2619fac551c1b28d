"""Check the options of a non-local block against each other, and its input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nonlocalnet.ops.pairwise import FUNCTIONS
from nonlocalnet.ops.sharing import Processes


def check_heads(heads: int, widths: dict[str, int], compared: str) -> None:
    """Raise unless heads divide the width that is compared and the values' width."""
    split = {name: widths[name] for name in (compared, "value_channels")}
    if heads < 1 or any(width % heads for width in split.values()):
        given = " and ".join(f"{name} = {width}" for name, width in split.items())
        raise ValueError(f"heads must be at least 1 and divide {given}; got {heads}")


def check_without_w_z(channels: int, value: int, norm: str | None, gate: bool) -> None:
    """Raise unless y fits x, and another factor makes a new block the identity."""
    if value != channels:
        raise ValueError(
            f"value_channels must be channels = {channels} for w_z=False, which adds y to x; "
            f"got {value}"
        )
    if not gate and norm in ("frozen", None):
        raise ValueError(
            f"w_z=False needs gate=True or a norm with a weight ('batch', 'group', 'rms'), so that "
            f"a new block is the identity; got norm={norm!r}"
        )


def check_scale(scale: float | str | None, pairwise: str, width: float) -> float | None:
    """Return the factor of the exponent for heads of this width, or raise."""
    softmax = FUNCTIONS[pairwise].softmax
    if scale == "auto":
        return width**-0.5 if softmax else None
    if isinstance(scale, str) or (scale is not None and not softmax):
        allowed = "a number, None or 'auto'" if softmax else "None or 'auto'"
        raise ValueError(f"scale must be {allowed} for pairwise={pairwise!r}; got {scale!r}")
    return scale


def check_subsample(
    subsample: int | Sequence[int] | None, dims: int, extent: str
) -> tuple[int, ...] | None:
    """Return one factor per axis, or raise if this extent cannot pool so."""
    if subsample is None:
        return None
    factors = (subsample,) * dims if isinstance(subsample, int) else tuple(subsample)
    if len(factors) != dims or any(k < 1 for k in factors):
        raise ValueError(
            f"subsample must be one positive factor, or {dims} of them for dims={dims}; "
            f"got {subsample!r}"
        )
    if extent == "causal" and factors[0] != 1:
        raise ValueError(
            f"subsample[0] must be 1 for extent='causal', since a key pooled over time would "
            f"contain later frames; got {factors}"
        )
    if extent == "space" and factors[0] != 1:
        raise ValueError(f"subsample[0] must be 1 for extent='space'; got {factors}")
    if extent == "time" and factors[1:] != (1, 1):
        raise ValueError(f"subsample[1:] must be (1, 1) for extent='time'; got {factors}")
    return factors


def check_group(
    group: int | None, dims: int, extent: str, subsample: tuple[int, ...] | None
) -> int | None:
    """Return the temporal group, or raise if it does not fit the other options."""
    if group is None:
        return None
    if dims != 3 or extent != "spacetime":
        raise ValueError(
            f"temporal_group needs dims=3 and extent='spacetime'; "
            f"got dims={dims}, extent={extent!r}"
        )
    if group < 1:
        raise ValueError(f"temporal_group must be at least 1; got {group}")
    if subsample is not None and group % subsample[0]:
        raise ValueError(
            f"subsample[0] must divide temporal_group, so that no key lies in two groups; "
            f"got subsample={subsample}, temporal_group={group}"
        )
    return group


def check_input(
    x: Tensor,
    mask: Tensor | None,
    channels: int,
    dims: int,
    group: int | None,
    processes: Processes | None,
) -> None:
    """Raise unless x and its mask fit a block of so many channels and axes, in all processes."""
    if x.ndim != dims + 2 or x.shape[1] != channels:
        axes = {1: "T", 2: "H, W", 3: "T, H, W"}[dims]
        raise ValueError(f"x must be (B, {channels}, {axes}) for this block; got {tuple(x.shape)}")
    if group is not None:
        frames = (x.shape[2],)
        if processes is not None:
            frames = processes.agree({"computes": "temporal groups"}, *frames, grad=False).sizes
        if any(count % group for count in frames):
            where, got = ("", frames[0]) if len(frames) == 1 else (" of each process", [*frames])
            raise ValueError(
                f"temporal_group={group} must divide the number of frames{where}; got {got}"
            )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (x.shape[0], *x.shape[2:])):
        raise ValueError(
            f"mask must be booleans of shape {(x.shape[0], *x.shape[2:])}; "
            f"got {mask.dtype} of {tuple(mask.shape)}"
        )
