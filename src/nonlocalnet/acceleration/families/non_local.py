"""Non-local blocks of other projects: z = norm(W_z y) + x, in their forms.

AlexHex7 and its copies (TSM's too), mmcv, pytorchvideo, PySlowFast, Tushar-N, timm, fast-reid.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnet.acceleration.attend import Attend
from nonlocalnet.acceleration.families.base import SMALL, Family, map_for
from nonlocalnet.ops import Pairwise


def embedded(module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project to θ, φ and g; where there is no θ or φ, it is x. Pools are part of φ and g."""
    theta = x if getattr(module, "theta", None) is None else module.theta(x)
    phi = x if getattr(module, "phi", None) is None else module.phi(x)
    return theta, phi, module.g(x)


def textbook(
    attend: Attend,
    module: Any,
    x: Tensor,
    *,
    out: str,
    pairwise: Pairwise = "embedded_gaussian",
    scaled: bool = False,
) -> Tensor:
    """Compute W(y) + x, with softmax or the division by M."""
    theta, phi, g = embedded(module, x)
    scale = theta.shape[1] ** -0.5 if scaled else None
    return getattr(module, out)(attend(theta, phi, g, pairwise, scale=scale)) + x


def concatenated(attend: Attend, module: Any, x: Tensor, *, out: str) -> Tensor:
    """Compute W(y) + x with f = relu(w_fᵀ[θ_i, φ_j]), from one number for i and one for j."""
    theta, phi, g = embedded(module, x)
    of_theta, of_phi = _scores(_linear(module.concat_project), theta, phi)
    y = attend(of_theta, of_phi, g, "concatenation", w_f=x.new_ones(2))
    return getattr(module, out)(y) + x


def _linear(project: Any) -> nn.Module:
    """Return the convolution of a projection to scores, which a relu follows."""
    return project[0] if isinstance(project, nn.Sequential) else project.conv


def _scores(project: nn.Module, theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Compute w_fᵀ[θ_i, 0] and w_fᵀ[0, φ_j] in one call of the projection.

    The third part of its input, zero, gives its bias, if it has one.
    """
    t, p = theta.flatten(2), phi.flatten(2)
    zero = t.new_zeros(t.shape[0], t.shape[1], 1)
    rows = torch.cat([t, torch.zeros_like(p), zero], dim=2)
    columns = torch.cat([torch.zeros_like(t), p.to(t.dtype), zero], dim=2)
    s = project(torch.cat([rows, columns], dim=1).unsqueeze(3)).squeeze(3)
    of_theta, of_phi, bias = s.split([t.shape[2], p.shape[2], 1], dim=2)
    of_phi = of_phi - bias
    return of_theta.unflatten(2, theta.shape[2:]), of_phi.unflatten(2, phi.shape[2:])


def pooled_first(
    attend: Attend, module: Any, x: Tensor, *, names: dict[str, str], pairwise: Pairwise
) -> Tensor:
    """Compute x + norm(W_z y), with φ and g of the pooled x."""
    part: dict[str, Any] = {key: getattr(module, name, None) for key, name in names.items()}
    theta = part["theta"](x)
    keys = x if part["pool"] is None else part["pool"](x)
    phi, g = part["phi"](keys), part["g"](keys)
    scale = theta.shape[1] ** -0.5 if pairwise == "embedded_gaussian" else None
    z = part["out"](attend(theta, phi, g, pairwise, scale=scale))
    return x + (z if part["norm"] is None else part["norm"](z))


def timm(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute norm(z(y)) + x, with a scale of its own."""
    y = attend(module.t(x), module.p(x), module.g(x), scale=module.scale)
    return module.norm(module.z(y)) + x


ALEXHEX7 = tuple(f"{name}{n}D" for name in ("NONLocalBlock", "NonLocalBlock") for n in (1, 2, 3))
FACEBOOK = {"theta": "conv_theta", "phi": "conv_phi", "g": "conv_g", "out": "conv_out"}
MMCV = ("NonLocal1d", "NonLocal2d", "NonLocal3d")


def _alexhex7(name: str, parts: tuple[str, ...], **options: Any) -> Family:
    return Family(
        name=name,
        classes=("_NonLocalBlockND", *ALEXHEX7, "Non_local"),
        parts=("g", "W", *parts),
        compute=partial(options.pop("compute", textbook), out="W", **options),
        example=map_for("g"),
        bypassed=("concat_project",) if "concat_project" in parts else (),
        fits=lambda module: all(
            (getattr(module, part, None) is None) == (part not in parts)
            for part in ("theta", "concat_project")
        ),
    )


def _mmcv(mode: str, **options: Any) -> Family:
    compute = options.pop("compute", textbook)
    concatenation = mode == "concatenation"
    return Family(
        name=f"mmcv {mode}",
        classes=(*MMCV, "_NonLocalNd"),
        parts=("g", "conv_out", "mode", "inter_channels"),
        compute=partial(compute, **options),
        example=map_for("g"),
        fits=lambda module: module.mode == mode,
        when=lambda module, x: module.mode == mode,
        bypassed=("concat_project",) if concatenation else (),
        small=0 if concatenation else SMALL,  # the original's concatenation has no backward
    )


def mmcv_embedded(attend: Attend, module: Any, x: Tensor) -> Tensor:
    """Compute conv_out(y) + x by softmax, whose scale is an option."""
    return textbook(attend, module, x, out="conv_out", scaled=module.use_scale)


def _facebook(name: str, norm: str, pairwise: Pairwise, word: str) -> Family:
    names = {**FACEBOOK, "pool": "pool", "norm": norm}

    def fits(module: Any, x: Tensor | None = None) -> bool:
        return module.instantiation == word and hasattr(module, norm)

    return Family(
        name=f"{name} {word}",
        classes=("NonLocal", "Nonlocal"),
        parts=("conv_theta", "conv_phi", "conv_g", "conv_out", "instantiation"),
        compute=partial(pooled_first, names=names, pairwise=pairwise),
        example=map_for("conv_theta"),
        fits=fits,
        when=fits,
    )


TUSHAR = {name: name for name in ("theta", "phi", "g", "out")} | {"pool": "maxpool", "norm": "bn"}

FAMILIES = (
    _alexhex7("non-local, embedded Gaussian", ("theta", "phi")),
    _alexhex7("non-local, dot product", ("theta", "phi"), pairwise="dot_product"),
    _alexhex7("non-local, Gaussian", ()),
    _alexhex7("non-local, concatenation", ("theta", "phi", "concat_project"), compute=concatenated),
    _mmcv("embedded_gaussian", compute=mmcv_embedded),
    _mmcv("gaussian", out="conv_out"),
    _mmcv("dot_product", out="conv_out", pairwise="dot_product"),
    _mmcv("concatenation", out="conv_out", compute=concatenated),
    _facebook("pytorchvideo", "norm", "embedded_gaussian", "softmax"),
    _facebook("pytorchvideo", "norm", "dot_product", "dot_product"),
    _facebook("PySlowFast", "bn", "embedded_gaussian", "softmax"),
    _facebook("PySlowFast", "bn", "dot_product", "dot_product"),
    Family(
        name="Tushar-N",
        classes=("NonLocalBlock",),
        parts=("theta", "phi", "g", "out", "bn"),
        compute=partial(pooled_first, names=TUSHAR, pairwise="embedded_gaussian"),
        example=map_for("theta"),
    ),
    Family(
        name="timm",
        classes=("NonLocalAttn",),
        parts=("t", "p", "g", "z", "norm", "scale"),
        compute=timm,
        example=map_for("t"),
    ),
)
