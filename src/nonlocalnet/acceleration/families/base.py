"""What a family is: how to recognize a module of it, and how its forward reads with `attend`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LEAST_PARTS = 4  # of a class whose name is not known
SMALL = 2**18  # pairs below which a block's own code is as good, and is left to run

Arguments = tuple[Tensor, ...]


def always(module: Any, *args: Any) -> bool:
    return True


def map_positions(x: Tensor) -> int:
    """Count the positions of a map (B, C, ...)."""
    return math.prod(x.shape[2:])


@dataclass(frozen=True)
class FrameCausal:
    """Stands for the mask by which a position sees its own frame and earlier ones.

    Attributes:
        size: (T, H, W) of the positions.
    """

    size: tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """Blocks of other projects that compute the same function of the same parts.

    Attributes:
        name: as the report shows it; unique.
        classes: names of the classes that are known to be of this family. Another class is tried
            if its parts are exactly these.
        parts: attributes that are not None: modules and parameters, and settings.
        compute: compute(attend, module, x) is the module's forward, with `attend` in the place of
            the N x M matrix. It calls every child as the original does.
        example: example(module) makes the arguments of the check.
        fits: whether a module's settings are those of this family.
        when: when(module, x) tells whether `compute` takes this call; otherwise the original does.
        bypassed: children that the original calls and `compute` does not; hooks on them keep the
            original.
        keywords: names of the example's arguments after the first, for the original.
        arguments: most arguments that `compute` takes.
        by_processor: whether a processor computes, as in diffusers, and is replaced.
        positions: number of positions of the first argument.
        tolerance: largest difference in the check, in units of the output's standard deviation;
            wider for blocks that round to float32 inside.
        small: pairs of positions below which the original is called.
    """

    name: str
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    compute: Callable[..., Any]
    example: Callable[[Any], Arguments]
    fits: Callable[[Any], bool] = always
    when: Callable[..., bool] = always
    bypassed: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    arguments: int = 1
    by_processor: bool = False
    positions: Callable[[Tensor], int] = map_positions
    tolerance: float = 1e-9
    small: int = SMALL

    def recognizes(self, module: nn.Module, name: str) -> bool:
        """Tell whether a module, of a class of this name, may be of this family."""
        if any(getattr(module, part, None) is None for part in self.parts):
            return False
        if name not in self.classes:
            own = {key for key, child in module._modules.items() if child is not None}
            own |= {key for key, parameter in module._parameters.items() if parameter is not None}
            own -= {*self.bypassed} - {*self.parts}
            if len(own) < LEAST_PARTS or own != {part for part in self.parts if part in own}:
                return False
            tensors = (nn.Module, Tensor)
            if any(p not in own for p in self.parts if isinstance(getattr(module, p), tensors)):
                return False
        try:
            return bool(self.fits(module))
        except (AttributeError, TypeError):
            return False


def weight_of(part: nn.Module) -> Tensor:
    """Return the first matrix among the parameters of a projection, for its shape."""
    return next(p for p in part.parameters() if p.ndim > 1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Draw an input for a check, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


MAPS = {1: (24,), 2: (4, 6), 3: (2, 4, 6)}  # sizes that pools by 2 divide


def map_for(
    part: str, *, dims: int | None = None, axis: int = 1
) -> Callable[[nn.Module], Arguments]:
    """Make the example of blocks that take one map, with the channels that a projection takes.

    Args:
        part: name of the projection.
        dims: axes of the map; None takes those of the projection's kernel.
        axis: axis of the projection's weight that is its input.
    """

    def example(module: nn.Module) -> Arguments:
        weight = weight_of(getattr(module, part))
        size = MAPS[weight.ndim - 2 if dims is None else dims]
        return (noise(2, weight.shape[axis], *size),)

    return example
