"""Resolve which network a weights file is for, and what its input is.

Known from: the description in a file of ours; shapes of tensors (`infer.py`) and the code of the
file's project; a release of the same name; what the user passed. What is then missing is either
assumed, and named in a warning, or asked for in an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nonlocalnet.checkpoints.features import describe_features
from nonlocalnet.checkpoints.metadata import WeightsInfo, kinetics_classes
from nonlocalnet.checkpoints.report import differ
from nonlocalnet.checkpoints.translate import Translated
from nonlocalnet.checkpoints.zoo import Release, find_release, releases_of
from nonlocalnet.errors import shown
from nonlocalnet.networks.arguments import defaults_of, is_ours, resolve
from nonlocalnet.networks.arguments import describe as describe_arguments
from nonlocalnet.networks.families import VIDEO, Family
from nonlocalnet.networks.registry import find_row
from nonlocalnet.ops.pairwise import SOFTMAX_FORMS

KINETICS = 400
INPUT = ("classes", "multi_label", "mean", "std")  # fields of `WeightsInfo` that may be passed too
MAX_PIXELS = 1 << 26  # of a clip: 1,024 frames of 256 x 256; the paper's have 128 frames
TENSORS_PER_BLOCK = 9  # at least: three convolutions, a scale and a shift for each


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
        options: arguments of the network, those in `INPUT`, and `release`: the name of the release
            that the file is, if its own name does not say it.

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
        resolve = _family(translated).load("weights").describe
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
    return changed, [] if translated.info else _list_assumptions(changed, translated)


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
        return describe_features(path, translated, clip=clip, **options)
    if not translated.fields:
        raise ValueError(
            "it has our names but no description of its network; build the network with "
            "create_model and fill it with load_weights"
        )
    release = _find_release(path, translated, options.pop("release", None))
    if release is not None:
        options = {**_what_it_says(release, translated), **options}
        clip = clip or translated.clip or release.clip
        if release.boxes:
            translated.leave_classifier(f"{release.name} classifies boxes, not clips")
    clip = clip or translated.clip
    passed = {**given, **options, **({"clip": clip} if clip else {})}
    missing = [f"{k}={v}" for k, v in translated.asked.items() if k not in passed]
    if missing:
        named = next(iter(releases_of(path)), None)
        other = f" (its name is that of {named.name}, but its network is another)" if named else ""
        raise ValueError(
            f"the file does not say all of its network{other}; pass {' and '.join(missing)}"
        )
    facts: dict[str, Any] = {"origin": translated.origin, "file": path.name}
    if release is not None:
        facts["release"] = release.name
    else:
        assumed = {name: why for name, (_, why) in translated.assumed.items()} | translated.derived
        form = options.get("pairwise", translated.fields.get("pairwise"))
        if form not in (None, *SOFTMAX_FORMS):
            assumed.pop("scale", None)  # only exponents are scaled
        if assumed := {k: why for k, why in assumed.items() if k not in passed}:
            facts["assumed"] = assumed
    crop = options.pop("crop", translated.crop)
    known = _known_fields(translated)
    if options.get("norm") == "frozen" and known["norm"] == "batch":
        known["block_norm"] = None  # the norms are folded, those of blocks into W_z
    config = describe_arguments(
        {**known, **options}, clip=str(clip), crop=crop, family=_family(translated)
    )
    return WeightsInfo(
        config=config,
        classes=find_classes(path, translated, release),
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


def _find_release(path: Path, translated: Translated, told: str | None = None) -> Release | None:
    """Find the release that a file is, by its name, if its format and network are the release's.

    Args:
        path: the file.
        translated: its content.
        told: the name of the release, as the user says.

    Raises:
        ValueError: it is not the release that the user says.
    """
    if told is None:
        return next((r for r in releases_of(path) if _is_release(r, translated)), None)
    release = find_release(told)
    if not _is_release(release, translated):
        raise ValueError(f"its network is not that of {told} ({release.model}, {release.project})")
    return release


def _is_release(release: Release, translated: Translated) -> bool:
    """Tell whether a file has the format and the network of a release."""
    if release.clip is None or release.project not in translated.projects:
        return False
    fields = translated.fields
    if any(name in fields and differ(name, fields[name], v) for name, v in release.options.items()):
        return False
    known = {**_known_fields(translated), **_what_it_says(release, translated)}
    family = _family(translated)
    found = describe_arguments(known, clip=release.clip, crop=224, family=family)
    return found["name"] == release.model


def _what_it_says(release: Release, translated: Translated) -> dict[str, Any]:
    """Return the arguments that a file does not say and its release does."""
    norm = translated.fields.get("norm", "batch")
    row = resolve(release.model, clip=release.clip, norm=norm)
    unsaid = {*translated.assumed, *translated.derived, *translated.asked} - {"window"}
    return {name: row[name] for name in unsaid & row.keys()} | dict(release.options)


def _family(translated: Translated) -> Family:
    return find_row(translated.like).family if translated.like else VIDEO


def name_classes(path: Path, translated: Translated) -> list[str]:
    """Name the classes of a file, as the file or its release says; their number is not enough."""
    if translated.info is not None:
        return translated.info.classes
    return _family(translated).load("weights").find_classes(path, translated)


def find_classes(path: Path, translated: Translated, release: Release | None = None) -> list[str]:
    """Name the classes of a file for a video network of another code base.

    Args:
        path: the file.
        translated: its content.
        release: that it is; None is the one of its name.
    """
    if translated.flat:
        return []
    count = translated.fields.get("num_classes")
    if translated.classes and len(translated.classes) == count:
        return translated.classes
    release = release or _find_release(path, translated)
    dataset = translated.dataset if release is None else release.dataset
    return kinetics_classes() if (dataset, count) == ("Kinetics-400", KINETICS) else []


def use_classifier(classifier: Translated) -> Translated:
    """Prepare an image classifier to fill a video network: its kernels are inflated later."""
    return classifier


def find_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of `VideoResNet` that a `config` stands for; none for other networks."""
    own = {k: v for k, v in config.items() if k not in ("num_classes", "insert", "insert_options")}
    family = find_row(str(own.get("name"))).family
    if not is_ours(family):
        return {}
    return defaults_of(family.load("network")) | resolve(own.pop("name"), **own)


def _list_assumptions(info: WeightsInfo, translated: Translated) -> list[str]:
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
        if name in info.config and name not in translated.stated
    ]
    notes += [f"{prefix}* is new: {why}" for prefix, why in translated.left.items()]
    return notes + (translated.notes if translated.flat else [])
