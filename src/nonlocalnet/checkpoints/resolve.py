"""Resolve which network a weights file is for, and what its input is.

Known from: the description in a file of ours; shapes of tensors (`infer`) and the code of the
file's project; a release of the same name; what the user passed. What is then missing is either
assumed, and named in a warning, or asked for in an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nonlocalnet.checkpoints.lazy_tensor import LazyTensor
from nonlocalnet.checkpoints.metadata import WeightsInfo, kinetics_classes
from nonlocalnet.checkpoints.translate import Translated
from nonlocalnet.checkpoints.zoo import RELEASE_OF, Release
from nonlocalnet.errors import shown
from nonlocalnet.networks.arguments import BUILD, DEFAULTS, resolve
from nonlocalnet.networks.arguments import describe as describe_arguments
from nonlocalnet.networks.registry import family_of, find_row
from nonlocalnet.ops.pairwise import SOFTMAX_FORMS

KINETICS = 400
INPUT = ("classes", "multi_label", "mean", "std")  # fields of `WeightsInfo` that may be passed too
MAX_PIXELS = 1 << 26  # of a clip: 1,024 frames of 256 x 256; the paper's have 128 frames
MAX_STAGES = 8  # the paper's networks have four
TENSORS_PER_BLOCK = 9  # at least: three convolutions, a scale and a shift for each
Shapes = Mapping[str, tuple[int, ...]]


def resolve_network(
    path: Path, translated: Translated, *, clip: str | None = None, **options: Any
) -> tuple[WeightsInfo, list[str]]:
    """Resolve which network a file is for, and its input.

    A file with the name of a release (`nonlocalnet zoo`) is taken for it if its network is the
    release's.

    Args:
        path: the file.
        translated: its content.
        clip: "FRAMESxRATE", if the file does not say it.
        options: arguments of the network, and those in `INPUT`.

    Returns:
        The description of the network, and what was assumed because the file does not say it.

    Raises:
        ValueError: information is missing, with what to pass; the file is an image classifier; an
            option contradicts what the file says about its input.
    """
    given = {name: options.pop(name) for name in INPUT if name in options}
    if translated.info is not None:
        info = replace(translated.info, config=dict(translated.info.config))
        info.config |= options | ({} if clip is None else {"clip": clip})
    else:
        resolve = _family_code(translated).describe if translated.like else describe
        info = resolve(path, translated, clip=clip, given=given, **options)
    _check_pixels(info, 1 if clip else None)
    if sum(info.config.get("depths", ())) * TENSORS_PER_BLOCK > len(translated.tensors):
        raise ValueError("its description is of a larger network than its tensors")
    try:
        changed = replace(info, **given)
    except TypeError as error:
        raise ValueError(str(error)) from None
    may_change = {*translated.derived, *(() if info.classes else ("classes",))}
    for name in {*given} - may_change:
        if getattr(changed, name) != (value := getattr(info, name)):
            raise ValueError(f"the file says {name}={shown(value)}, which no option changes")
    count = info.config.get("num_classes")
    if "classes" in given and len(changed.classes) != count:
        raise ValueError(f"there are {len(changed.classes):,} names for {count} classes")
    return changed, [] if translated.info else _list_assumptions(changed)


def describe(
    path: Path,
    translated: Translated,
    *,
    clip: str | None,
    given: Mapping[str, Any],
    **options: Any,
) -> WeightsInfo:
    """Resolve a video network of another code base; arguments are those of `resolve_network`.

    Args:
        given: what the user passed about the input.
    """
    if translated.flat:
        raise ValueError(
            "it is an image classifier; start a video network from it with "
            "load_weights(model, file, new_classifier=True) or `nonlocalnet train --init`"
        )
    if not translated.fields:
        raise ValueError(
            "it has our names but no description of its network; build the network with "
            "create_model and fill it with load_weights"
        )
    release = _find_release(path, translated)
    if release is not None:
        options = {**release.options, **options}
        clip = clip or translated.clip or release.clip
    clip = clip or translated.clip
    passed = {**given, **options, "clip": clip}
    missing = [f"{k}={v}" for k, v in translated.asked.items() if passed.get(k) is None]
    if missing:
        named = RELEASE_OF.get(path.name)
        other = f" (its name is that of {named.name}, but its network is another)" if named else ""
        raise ValueError(
            f"the file does not say all of its network{other}; pass {' and '.join(missing)}"
        )
    facts: dict[str, Any] = {"origin": translated.origin, "file": path.name}
    if release is not None:
        facts["release"] = release.name
    else:
        assumed = {name: why for name, (_, why) in translated.assumed.items()} | translated.derived
        if options.get("pairwise") not in (None, *SOFTMAX_FORMS):
            assumed.pop("scale", None)  # only exponents are scaled
        if assumed := {k: why for k, why in assumed.items() if k not in passed}:
            facts["assumed"] = assumed
    crop = options.pop("crop", translated.crop)
    known = _known_fields(translated)
    if options.get("norm") == "frozen" and known["norm"] == "batch":
        known["block_norm"] = None  # the norms are folded, those of blocks into W_z
    return WeightsInfo(
        config=describe_arguments({**known, **options}, clip=str(clip), crop=crop),
        classes=find_classes(path, translated),
        multi_label=translated.multi_label,
        short_side=translated.short_side,
        mean=translated.mean,
        std=translated.std,
        views=translated.views,
        facts=facts,
    )


def _check_pixels(info: WeightsInfo, frames: int | None) -> None:
    """Limit the memory of a clip or an image; `frames` is 1 if the user passed the clip."""
    config = info.config
    if frames is None:
        first = str(config.get("clip", "1x1")).partition("x")[0]
        frames = int(first) if first.isdecimal() else 1  # a malformed clip is refused later
    size = config.get("min_size", 1)
    sides = [info.short_side, config.get("crop", 1), config.get("max_size", 1)]
    side = max(*sides, *(size if isinstance(size, (list, tuple)) else [size]))
    if frames * side**2 > MAX_PIXELS:
        hint = "; pass clip=... if it is meant" if frames > side else ""
        raise ValueError(
            f"its input of {frames:,} x {side:,} x {side:,} is more than {MAX_PIXELS:,} pixels, "
            f"as many as 1,024 frames of 256 x 256{hint}"
        )


def _known_fields(translated: Translated) -> dict[str, Any]:
    assumed = {name: value for name, (value, _) in translated.assumed.items()}
    return {**translated.fields, **assumed}


def _find_release(path: Path, translated: Translated) -> Release | None:
    """Find the release of the file's name, if its format and its network are the release's."""
    release = RELEASE_OF.get(path.name)
    if release is None or release.clip is None or release.project not in translated.projects:
        return None
    found = describe_arguments(
        {**_known_fields(translated), **release.options}, clip=release.clip, crop=224
    )
    return release if found["name"] == release.model else None


def name_classes(path: Path, translated: Translated) -> list[str]:
    """Name the classes of a file, as the file or its release says; their number is not enough."""
    if translated.info is not None:
        return translated.info.classes
    find = _family_code(translated).find_classes if translated.like else find_classes
    return find(path, translated)


def _family_code(translated: Translated) -> Any:
    """Import the functions `describe` and `find_classes` for networks of another family."""
    return family_of(translated.like).load("weights")


def find_classes(path: Path, translated: Translated) -> list[str]:
    """Name the classes of a file for a video network of another code base."""
    if translated.flat:
        return []
    count = translated.fields.get("num_classes")
    if translated.classes and len(translated.classes) == count:
        return translated.classes
    release = _find_release(path, translated)
    dataset = translated.dataset if release is None else release.dataset
    return kinetics_classes() if (dataset, count) == ("Kinetics-400", KINETICS) else []


def use_classifier(classifier: Translated) -> Translated:
    """Prepare an image classifier to fill a video network: its kernels are inflated later."""
    return classifier


def find_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of `VideoResNet` that a `config` stands for; none for other networks."""
    own = {k: v for k, v in config.items() if k not in ("num_classes", "insert", "insert_options")}
    if find_row(str(own.get("name"))).family.places["build"] != BUILD:
        return {}
    return DEFAULTS | resolve(own.pop("name"), **own)


def _list_assumptions(info: WeightsInfo) -> list[str]:
    """Say what was assumed about a network because its file does not say it."""
    arguments, by_reason = find_arguments(info.config), {}
    for name, why in info.facts.get("assumed", {}).items():
        value = getattr(info, name) if name in INPUT else arguments.get(name)
        if name in ("mean", "std"):
            value = tuple(round(color, 4) for color in getattr(info, name))
        by_reason.setdefault(why, []).append(f"{name}={info.config.get(name, value)!r}")
    notes = [
        f"{', '.join(values)} {'is' if len(values) == 1 else 'are'} assumed: {why}"
        for why, values in by_reason.items()
    ]
    notes += [
        f"{name}={info.config[name]!r} is that of no network in the table; is the file complete?"
        for name in ("depths", "non_local")
        if name in info.config
    ]
    return notes


# --- shapes


def infer(
    tensors: Mapping[str, LazyTensor], *, slow: bool = False, backbone: bool = False
) -> dict[str, Any]:
    """Infer arguments of `VideoResNet` from the shapes of a video network under our names.

    Shapes do not show temporal strides, padding, scale, pooling of keys, and whether an embedded
    form is the Gaussian or the dot product.

    Args:
        tensors: by our names.
        slow: accept a Slow network, too (`is_slow`).
        backbone: accept a network without classifier, too; then num_classes is not inferred.

    Raises:
        ValueError: it is not a complete C2D or I3D network.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    stem = shapes.get("conv1.weight")
    if stem is None or ("fc.weight" not in shapes and not backbone):
        missing = "stem" if stem is None else "classifier"
        raise ValueError(f"it has no {missing}: not a complete C2D or I3D network")
    if len(stem) != 5 or len(shapes.get("fc.weight", (0, 0))) != 2:
        raise ValueError("its stem or classifier has too many or too few axes for a video network")
    depths, widths, kernels_a, kernels_b = [], [], [], []
    places: dict[str, tuple[int, ...]] = {}
    stages = _count(shapes, r"(res\d+)\.", first=2, prefix="res")
    if len(stages) > MAX_STAGES:
        raise ValueError(f"it has {len(stages)} stages: not a C2D or I3D network")
    for stage in stages:
        depth = len(_count(shapes, rf"{stage}\.block(\d+)\."))
        a, b = (_kernels(shapes, stage, depth, conv) for conv in ("conv_a", "conv_b"))
        widths.append(shapes.get(f"{stage}.block0.conv_a.weight", (0,))[0])
        depths.append(depth)
        kernels_a.append(a)
        kernels_b.append(b)
        found = {int(i) for key in shapes for i in re.findall(rf"^{stage}\.non_local(\d+)\.", key)}
        if found:
            places[stage] = tuple(sorted(found))
    if not depths:
        raise ValueError("it has no residual stages: not a C2D or I3D network")
    fields: dict[str, Any] = {} if backbone else {"num_classes": shapes["fc.weight"][0]}
    fields |= {
        "depths": tuple(depths),
        "widths": tuple(widths),
        "conv1_channels": stem[0],
        "conv1_kernel": (stem[2], stem[3]),
        "kernels_a": tuple(kernels_a),
        "kernels_b": tuple(kernels_b),
        "shift_div": None,
        "non_local": places,
        "norm": "batch" if _any(shapes, r"(norm1|.*\.norm_[abc])\.running_mean") else "frozen",
    }
    if not (slow and is_slow(fields)):
        _check_inflation(fields)
    if places:
        fields |= _block(shapes)
    return fields


def _block(shapes: Shapes) -> dict[str, Any]:
    """Infer the options of the non-local blocks."""
    fields: dict[str, Any] = {}
    inside = r"res\d+\.non_local\d+\."
    if not _any(shapes, inside + r"(theta|phi)\."):
        fields["pairwise"] = "gaussian"
    elif _any(shapes, inside + "w_f"):
        fields["pairwise"] = "concatenation"
    if _any(shapes, inside + r"norm\.running_mean"):
        fields["block_norm"] = "batch"
    else:
        fields["block_norm"] = "frozen" if _any(shapes, inside + r"norm\.") else None
    fields["bias"] = _any(shapes, inside + r"(theta|phi|g|w_z)\.bias")
    return fields


def _any(shapes: Shapes, pattern: str) -> bool:
    return any(re.match(pattern, key) for key in shapes)


def _count(shapes: Iterable[str], pattern: str, first: int = 0, prefix: str = "") -> list[str]:
    """List the names that the pattern finds, from the first number on without a gap."""
    found = {name for key in shapes for name in re.findall("^" + pattern, key)}
    names = [f"{prefix}{i}" for i in range(first, first + len(found))]
    return [name for name in names if name in found]


def _kernels(shapes: Shapes, stage: str, depth: int, conv: str) -> tuple[int, ...]:
    """List the temporal kernels of a stage; 1 if the file lacks a convolution (reported later)."""
    found = (shapes.get(f"{stage}.block{i}.{conv}.weight", ()) for i in range(depth))
    return tuple(shape[2] if len(shape) == 5 else 1 for shape in found)


def is_slow(fields: Mapping[str, Any]) -> bool:
    """Tell whether temporal kernels are those of SlowOnly: none but in all blocks of res4 and res5.

    Such a network has no pool2 either, which no shape shows.
    """
    early = {
        fields["conv1_kernel"][0],
        *(k for x in "ab" for s in fields[f"kernels_{x}"][:2] for k in s),
    }
    late = {k for stage in fields["kernels_a"][2:] for k in stage}
    return early == {1} and bool(late) and min(late) > 1


def _check_inflation(fields: Mapping[str, Any]) -> None:
    """Refuse temporal kernels that are neither C2D's (none) nor I3D's (in the stem and in res2).

    A Slow pathway (temporal kernels late, none in the stem) also lacks pool2, which no shape shows:
    as an I3D it would give wrong numbers.
    """
    inflated = {
        "conv1": fields["conv1_kernel"][0] > 1,
        "res2": max(*fields["kernels_a"][0], *fields["kernels_b"][0]) > 1,
        "later": max(k for x in "ab" for stage in fields[f"kernels_{x}"] for k in stage) > 1,
    }
    if len(set(inflated.values())) > 1:
        raise ValueError(
            "its temporal kernels are neither C2D's (none) nor I3D's (conv1, res2 and later): "
            f"conv1 {fields['conv1_kernel'][0]}, stages {fields['kernels_a']}; Slow and SlowFast "
            "networks are not among the paper's"
        )
