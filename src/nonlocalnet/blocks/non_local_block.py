"""The non-local block, z = W_z y + x, for any network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NoReturn, get_args

import torch
from torch import Tensor, nn

from nonlocalnet.blocks.block_options import (
    check_group,
    check_heads,
    check_input,
    check_scale,
    check_subsample,
    check_without_w_z,
)
from nonlocalnet.blocks.cuts import SharesFrames, cells_over_cuts
from nonlocalnet.blocks.norm import BlockNorm, as_affine, make_norm
from nonlocalnet.blocks.pooling import pooling, unchanged
from nonlocalnet.blocks.projection import (
    CONV,
    is_product,
    project_each,
    project_to_score,
    score,
)
from nonlocalnet.blocks.rows import from_rows, to_rows
from nonlocalnet.blocks.streaming import Stream
from nonlocalnet.errors import check_choice, refuse_script
from nonlocalnet.ops import affinity, explain, non_local
from nonlocalnet.ops.pairwise import FUNCTIONS
from nonlocalnet.ops.plan import Implementation, Plan, check_implementation
from nonlocalnet.ops.streaming import KeysSoFar, RunningSummary
from nonlocalnet.options import Extent, Pairwise

SubsamplePosition = Literal["before", "after"]


class NonLocalBlock(nn.Module, SharesFrames):
    """Add to each position a weighted sum over all positions: z = W_z y + x.

    y_i = 1/C(x) · Σ_j f(x_i, x_j) g(x_j), where θ, φ and g are projections (1x1x1 convolutions) of
    x to `inner_channels`. With any options, a new block is the identity, so it can be put into a
    pretrained network.

    Args:
        channels: C, the channels of x.
        dims: 1 for sequences (B, C, T), 2 for images (B, C, H, W), 3 for video (B, C, T, H, W).
        pairwise: f, one of "gaussian" (on x itself: no θ and φ), "embedded_gaussian",
            "dot_product", "concatenation".
        inner_channels: d, the channels of θ and φ, by default C // 2 as in the paper (at least 1).
        value_channels: c, the channels of g, by default inner_channels, or C without W_z.
        heads: number of heads: each is the operation on its own d/heads channels of θ and φ and
            c/heads of g. It divides d (C in the plain Gaussian) and c.
        subsample: factors of the max-pooling of the keys, one per axis or one for all, for
            example (1, 2, 2); None means no pooling. Sizes are rounded down; an axis shorter than
            its factor becomes 1.
        subsample_position: "before" the projections φ and g, as in the official code and its
            weights, or "after" them, as in the paper's text. The two are different functions.
        norm: the norm after W_z: "batch", "group" or "rms" (its weight starts at 0), "frozen" or
            None (W_z starts at 0). A group norm has 32 groups, or the most that divide both 32 and
            the channels; "rms" divides each position by the root mean square of its channels. Both
            suit small batches, and work the same in training and evaluation.
        pre_norm: the norm of x before the projections, one of the same, or None. The sum z has x
            itself.
        w_z: whether there is a W_z; False adds y itself, and needs value_channels = channels.
        gate: whether to multiply the branch by a learned scalar `gamma`, z = gamma · W_z y + x
            (SAGAN). It starts at 0; the norm and W_z then do not.
        scale: factor of the exponent in the softmax forms; "auto" is (inner_channels / heads) **
            -0.5 there (official code) and None elsewhere; None means no scaling (the paper's text).
        extent: which positions a position attends to (paper, table 2d): all of them
            ("spacetime"), those of its own frame ("space"), those at its own place in all
            frames ("time"), or those of its own and all earlier frames ("causal"). All but the
            first need dims=3. Norms over frames (group, and batch in training) are not causal.
        temporal_group: split time into groups of so many consecutive frames, which attend only to
            themselves, to save memory as in the official long-clip networks. Needs dims=3.
        bias: whether the four projections have a bias; the official ones do.
        implementation, memory_budget: how the operation is computed, as in `nl.non_local`.
            Neither changes parameters, checkpoints, or results beyond rounding.

    Raises:
        ValueError: an option has an unknown value or does not fit the others.

    Source: paper, sections 3.2 and 3.3; official code `lib/models/nonlocal_helper.py`. Projections
    start from a normal distribution with standard deviation 0.01, as there.

    >>> import torch, nonlocalnet as nl
    >>> block = nl.NonLocalBlock(64, dims=3, subsample=(1, 2, 2))
    >>> x = torch.randn(1, 64, 4, 7, 7)
    >>> torch.equal(block(x), x)
    True
    """

    past: KeysSoFar | RunningSummary | None = None  # of a stream, during its calls

    def __init__(
        self,
        channels: int,
        dims: int = 3,
        pairwise: Pairwise = "embedded_gaussian",
        *,
        inner_channels: int | None = None,
        value_channels: int | None = None,
        heads: int = 1,
        subsample: int | Sequence[int] | None = None,
        subsample_position: SubsamplePosition = "before",
        norm: BlockNorm | None = "batch",
        pre_norm: BlockNorm | None = None,
        w_z: bool = True,
        gate: bool = False,
        scale: float | Literal["auto"] | None = "auto",
        extent: Extent = "spacetime",
        temporal_group: int | None = None,
        bias: bool = True,
        implementation: Implementation = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("dims", dims, CONV)
        check_choice("pairwise", pairwise, FUNCTIONS)
        check_choice("subsample_position", subsample_position, get_args(SubsamplePosition))
        check_choice("norm", norm, (*get_args(BlockNorm), None))
        check_choice("pre_norm", pre_norm, (*get_args(BlockNorm), None))
        check_choice("extent", extent, get_args(Extent))
        function = FUNCTIONS[pairwise]
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        value = (inner if w_z else channels) if value_channels is None else value_channels
        widths = {"channels": channels, "inner_channels": inner, "value_channels": value}
        for name, width in widths.items():
            if width < 1:
                raise ValueError(f"{name} must be at least 1; got {width}")
        check_heads(heads, widths, "inner_channels" if function.embedded else "channels")
        if not w_z:
            check_without_w_z(channels, value, norm, gate)
        if extent != "spacetime" and dims != 3:
            raise ValueError(f"extent must be 'spacetime' for dims={dims}; got {extent!r}")
        self.channels, self.dims, self.pairwise = channels, dims, pairwise
        self.inner_channels, self.value_channels, self.heads = inner, value, heads
        self.scale = check_scale(scale, pairwise, inner / heads)
        self.subsample = check_subsample(subsample, dims, extent)
        self.subsample_position = subsample_position
        self.extent = extent
        self.temporal_group = check_group(temporal_group, dims, extent, self.subsample)
        check_implementation(pairwise, implementation, memory_budget)
        self.implementation, self.memory_budget = implementation, memory_budget

        conv = CONV[dims]
        self.pre_norm: Any = None if pre_norm is None else make_norm(pre_norm, channels, dims)
        self.theta = conv(channels, inner, 1, bias=bias) if function.embedded else None
        self.phi = conv(channels, inner, 1, bias=bias) if function.embedded else None
        self.g = conv(channels, value, 1, bias=bias)
        self.w_f = nn.Parameter(torch.empty(2 * inner)) if function.concatenated else None
        self.w_z: Any = conv(value, channels, 1, bias=bias) if w_z else None
        self.norm: Any = None if norm is None else make_norm(norm, channels, dims)
        self.gamma = nn.Parameter(torch.empty(1)) if gate else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the parameters: projections N(0, 0.01), biases 0, and the block is the identity.

        Raises:
            ValueError: the weight of a projection is not its own parameter (pruned, parametrized,
                wrapped) and cannot be set.
        """
        for name in ("theta", "phi", "g", "w_z"):
            module = getattr(self, name)
            if module is not None:
                nn.init.normal_(_own(module, name, "weight"), std=0.01)
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(_own(module, name, "bias"))
        if self.w_f is not None:
            nn.init.normal_(self.w_f, std=0.01)
        for norm in (self.norm, self.pre_norm):
            if hasattr(norm, "reset_parameters"):
                norm.reset_parameters()
        # the last factor of the branch alone starts at 0, so that gradients reach it
        last = [self.gamma, getattr(self.norm, "weight", None), getattr(self.w_z, "weight", None)]
        nn.init.zeros_(next(value for value in last if isinstance(value, nn.Parameter)))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute z = W_z y + x, with the norms and the gate that the block has.

        Args:
            x: (B, C, ...) with `dims` more axes, any floating dtype, any memory format.
            mask: (B, ...) booleans over the same axes, True = a real position. No position attends
                to padding, and z has no meaning there. A subsampled cell is real if one of its
                positions is. Padding still enters the statistics of a batch or group norm; for
                these, and for gradients, it must be finite.

        Returns:
            z, with the shape of x.

        Raises:
            ValueError: x has a wrong number of axes or channels, its frames cannot be divided into
                the temporal groups, or the mask does not fit.
        """
        theta, phi, g, rest = self.embed(x, mask)
        weight, bias, norm = self._output()
        operation: Any = non_local if self.past is None else self.past
        if self._sees_other_processes():
            operation = partial(non_local, group=self.processes)
        y = operation(
            theta,
            phi,
            g,
            self.pairwise,
            w_z=weight,
            implementation=self.implementation,
            memory_budget=self.memory_budget,
            **rest,
        )  # (B', N', C), or (B', N', c) where W_z is called
        z = from_rows(y, x.shape, self.extent, self.temporal_group)
        if weight is None:
            z = z if self.w_z is None else self.w_z(z)
        elif bias is not None:
            z = z + bias.to(z.dtype).view(-1, *[1] * self.dims)
        z = z if norm is None else norm(z)
        z = z if self.gamma is None else self.gamma * z
        # x first: the sum gets its memory format, so later layers round as without the block
        return x + z

    def stream(self, *, window: int | None = None) -> Stream:
        """Return `nl.Stream` of this block, which takes the frames of a video one after another.

        Each call takes the next frames (B, C, t, H, W), with any t, and their mask if there is one,
        and returns z of these frames: that of `forward` on all frames so far, to rounding.

        >>> import torch, nonlocalnet as nl
        >>> stream = nl.NonLocalBlock(16, extent="causal").eval().stream()
        >>> [stream(torch.randn(1, 16, t, 7, 7)).shape[2] for t in (1, 3)]
        [1, 3]
        """
        return Stream(self, window=window)

    def begin_stream(self, window: int | None) -> KeysSoFar | RunningSummary | None:
        """Return what the block keeps of past frames, None where frames do not see each other.

        Raises:
            ValueError: frames see later frames.
        """
        if self.dims == 2 or self.extent == "space":  # 2-D: frames are samples
            return None
        if self.extent != "causal":
            raise ValueError(
                f"attends to later frames: extent must be 'causal' or 'space'; got {self.extent!r}"
            )
        if self.pairwise == "dot_product" and window is None:
            return RunningSummary()
        return KeysSoFar(window)

    def _sees_other_processes(self) -> bool:
        alone = self.dims == 2 or self.extent == "space" or self.temporal_group is not None
        return self.processes is not None and not alone

    def __prepare_scriptable__(self) -> NoReturn:
        """Raise a TypeError: torch.jit.script asks for this."""
        refuse_script(self)

    def explain(self, x: Tensor, mask: Tensor | None = None) -> Plan:
        """Tell which implementation `forward` takes for this input, and why: see `nl.explain`."""
        self.check_whole("explain")
        theta, phi, g, rest = self.embed(x, mask)
        return explain(
            theta,
            phi,
            g,
            self.pairwise,
            implementation=self.implementation,
            memory_budget=self.memory_budget,
            **rest,
        )

    def affinity(
        self, x: Tensor, queries: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Compute the weights with which chosen positions attend to the keys.

        Args:
            x, mask: as in `forward`.
            queries: (Q,) or (B', Q) flattened positions within the extent; None is all.

        Returns:
            (B', Q, M'), or (B', heads, Q, M') if there are several heads. B' is the batch times
            the number of frames (extent "space"), of places ("time") or of temporal groups. The
            last axis is the flattened subsampled positions.
        """
        self.check_whole("affinity")
        theta, phi, _, rest = self.embed(x, mask)
        return affinity(theta, phi, self.pairwise, queries=queries, **rest)

    def key_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the map of keys, given the size of x without batch and channels."""
        if self.subsample is None:
            return tuple(size)
        return tuple(max(s // k, 1) for s, k in zip(size, self.subsample, strict=True))

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, dims={self.dims}, pairwise={self.pairwise!r}, "
            f"inner_channels={self.inner_channels}, value_channels={self.value_channels}, "
            f"heads={self.heads}, subsample={self.subsample}, "
            f"subsample_position={self.subsample_position!r}, scale={self.scale}, "
            f"extent={self.extent!r}, temporal_group={self.temporal_group}"
        )

    def embed(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, dict]:
        """Normalize and project x to the arguments of `nl.non_local`.

        Concatenation needs only the numbers w_theta · θ_i and w_phi · φ_j of each head. They are
        computed directly from x where the result is the same; then d = heads and w_f is all ones.

        Returns:
            theta (B', N', d), phi (B', M', d), g (B', M', c), and a dictionary of scale, w_f,
            heads, causal_frames and mask, that of the keys (B', M').
        """
        check_input(x, mask, self.channels, self.dims, self.temporal_group, self.processes)
        group = self.temporal_group
        rows = partial(to_rows, extent=self.extent, group=group)
        w_f = None if self.w_f is None else torch.ones_like(self.w_f[: 2 * self.heads])
        frames = x.shape[2] if self.extent == "causal" else None
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        if self.theta is None:
            theta = x
        elif self.w_f is None:
            (theta,) = project_each(x, self.theta)
        else:
            theta = project_to_score(x, self.theta, self._by_head(self.w_f.chunk(2)[0]))
        theta = rows(theta)
        if group is not None and self.subsample is not None:
            rows = partial(rows, group=group // self.subsample[0])
        phi, g, mask = self._embed_keys(x, mask)
        if mask is not None:
            mask = rows(mask.unsqueeze(1)).squeeze(2)
        rest = {"scale": self.scale, "mask": mask, "w_f": w_f}
        return theta, rows(phi), rows(g), rest | {"heads": self.heads, "causal_frames": frames}

    def _by_head(self, w: Tensor) -> Tensor:
        """Arrange half of w_f, (d,), as a row per head: (heads, d), 0 at other heads' channels."""
        own = torch.eye(self.heads, dtype=w.dtype, device=w.device).unsqueeze(2)
        return (own * w.unflatten(0, (self.heads, -1))).flatten(1)

    def _embed_keys(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Project and pool x to phi (B, d, ...), g (B, c, ...) and their mask (B, ...)."""
        if self._sees_other_processes() and self.subsample is not None and self.subsample[0] > 1:
            assert self.processes is not None
            x, mask = cells_over_cuts(x, mask, self.subsample[0], self.processes)
        pool, mask = pooling(x, mask, self.subsample, whole_clips=self.temporal_group is None)
        if self.subsample_position == "before":
            x, pool = pool(x), unchanged
        if self.phi is None:
            (g,) = project_each(x, self.g, then=pool)
            return pool(x), g, mask
        if self.w_f is None:
            phi, g = project_each(x, self.phi, self.g, then=pool)
            return phi, g, mask
        w_phi = self._by_head(self.w_f.chunk(2)[1])
        if pool is unchanged:
            (g,) = project_each(x, self.g)
            return project_to_score(x, self.phi, w_phi), g, mask
        # after pooling phi: a maximum does not commute with w_phi
        phi, g = project_each(x, self.phi, self.g, then=pool)
        return score(phi, w_phi), g, mask

    def _output(self) -> tuple[Tensor | None, Tensor | None, nn.Module | None]:
        """Return W_z (C, c), its bias (C,) and the norm, which is folded into them if constant.

        W_z is None if there is none, or if the module w_z must be called.
        """
        if self.w_z is None or not is_product(self.w_z, self.dims):
            return None, None, self.norm
        weight, bias = self.w_z.weight.flatten(1), self.w_z.bias
        affine = None if self.norm is None else as_affine(self.norm, self.dims)
        if affine is None:
            return weight, bias, self.norm
        scale, shift = affine
        return scale.unsqueeze(1) * weight, shift if bias is None else scale * bias + shift, None


def _own(module: nn.Module, name: str, key: str) -> nn.Parameter:
    value = getattr(module, key, None)
    if not isinstance(value, nn.Parameter):
        raise ValueError(
            f"{name} must have its {key} as its own parameter to be reset; got a "
            f"{type(module).__name__} without one: remove what was attached to it first"
        )
    return value
