"""The table of all networks by name: `create_model` builds from it, `list_models` lists it.

The table is data: neither it nor its rows import torch. To add a network to the library, write a
module with its rows, `ROWS = {name: Row(family, fields)}`, and name the module in `PROVIDERS`. A
network with other arguments than `VideoResNet` needs a family of its own, whose "build" is the
path of a function: `dataclasses.replace(VIDEO, name=..., places={**VIDEO.places, "build": "..."})`.

What `build(name, fields, *, num_classes=None, clip=..., crop=..., **options)` returns for videos:
a module that takes (B, 3, T, H, W) and gives logits (B, K); `probabilities(x, multi_label=)`, class
probabilities of clips of any size; `.config`, the arguments of `create_model` that build it again;
and, so that its features can be shown, `features(x, out)`, which keeps intermediates in `out`.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from nonlocalnet.clips import ClipSpec
from nonlocalnet.errors import check_choice, shown
from nonlocalnet.networks.families import VIDEO, Family, Row

# A VideoResNet, or torchvision's MaskRCNN or KeypointRCNN: the family tells which.
Network: TypeAlias = Any

PROVIDERS = (
    ".networks.rows",
    ".networks.slow",
    ".networks.tsm",
    ".networks.torchvision_video",
    ".detection.rows",
)


@functools.cache
def table() -> dict[str, Row]:
    """Read the rows of all providers, once."""
    rows: dict[str, Row] = {}
    for provider in PROVIDERS:
        rows |= importlib.import_module(provider, "nonlocalnet").ROWS
    return rows


def register(name: str, fields: Mapping[str, Any], family: Family = VIDEO) -> None:
    """Add a network of your own to the table.

    Args:
        name: of the network.
        fields: arguments of `VideoResNet`; for another family, what its "build" takes.
        family: what builds and uses it.

    Raises:
        ValueError: the name is taken.
    """
    if name in table():
        raise ValueError(f"model {name!r} is in the table already; choose another name")
    table()[name] = Row(family, dict(fields))


def find_row(name: str) -> Row:
    """Look up a network by name.

    Raises:
        ValueError: there is none, with the nearest name that exists.

    >>> find_row("c2d_tiny").family.takes
    'videos'
    """
    check_choice("model", name, table())
    return table()[name]


def family_of(network: str | Network) -> Family:
    """Tell the family of a network, by its name or by itself.

    Args:
        network: a name of the table, or any module: one of `create_model`, one of torchvision's
            detectors, or another, which counts as a video network.

    Raises:
        ValueError: a name that is not in the table.
    """
    if isinstance(network, str):
        return find_row(network).family
    config = getattr(network, "config", None)
    name = config.get("name") if isinstance(config, Mapping) else None
    if isinstance(name, str) and name in table():
        return table()[name].family
    families = (row.family for row in table().values())
    return next((f for f in families if f.attribute and hasattr(network, f.attribute)), VIDEO)


def list_models(pattern: str = "*") -> list[str]:
    """List the names of the table that match a shell pattern, in the table's order.

    >>> list_models("*_r50*_nl1")
    ['c2d_r50_nl1', 'i3d_r50_nl1', 'i3d3x3x3_r50_nl1', 'mask_rcnn_r50_fpn_nl1']
    """
    return fnmatch.filter(table(), pattern)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    clip: str | None = None,
    crop: int | None = None,
    insert: Sequence[str] = (),
    insert_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Network:
    """Build a network of the table.

    Args:
        name: a row of the table; `list_models` gives them. Those of COCO, mask_rcnn_* and
            keypoint_rcnn_*, are torchvision's R-CNNs with our blocks; their options are listed at
            `detection.networks.build`.
        num_classes: K, by default 400; of a detector, with the background, 91 or 2.
        clip: "FRAMESxRATE", the clip it is for: "8x8", "32x2", "32x4", "128x1" or another. Dense
            clips (32 frames or more, rate 1 or 2) get temporal strides of 2 in conv1 and pool1, as
            the paper's 32x2 and 128x1; sparse ones none. By default "8x8", or the one that the row
            names. SlowFast's is the clip of its fast pathway.
        crop: side of the training crop in pixels, by default 224; fixes the window of fully
            convolutional testing.
        insert: module paths or patterns, such as "layer3.*", after which non-local blocks are put
            into a video network, as `nl.add_non_local` does.
        insert_options: arguments of these `NonLocalBlock`s, such as pairwise or subsample.
        options: any other argument of `VideoResNet`, over the row's own: pairwise, extent, scale,
            subsample, subsample_position, bias, block_norm, norm, stem_padding, temporal_stride,
            temporal_group, pool1_time, pool2_time, strides, dilations, window, dropout, non_local
            ...; of SlowFast also alpha, beta, fast_kernels_a ...

    Returns:
        The network, newly initialized: a `VideoResNet`, or torchvision's `MaskRCNN` or
        `KeypointRCNN`. `.config` holds the arguments that build it again, a `VideoResNet`'s
        `.arguments` all of its own.

    Raises:
        ValueError: an unknown name or option, with the nearest that exists; a detector's clip.

    With norm="frozen", res3's non-local blocks see groups of 4 frames, as in the official long-clip
    networks; temporal_group=None undoes it.

    >>> import torch, nonlocalnet as nl
    >>> model = nl.create_model("c2d_tiny_nl2", num_classes=10, clip="4x2", crop=32)
    >>> model(torch.randn(2, 3, 4, 32, 32)).shape
    torch.Size([2, 10])
    """
    row = find_row(name)
    given = {"num_classes": num_classes, "clip": clip, "crop": crop}
    given = {key: value for key, value in given.items() if value is not None}
    if row.family.takes == "images" and given.keys() & {"clip", "crop"}:
        raise ValueError(f"{name} takes images: it has no clip and no crop")
    network = row.family.load("build")(name, row.fields, **given, **options)
    if insert or insert_options:
        _insert(network, insert, insert_options or {})
    return network


def _insert(network: Network, after: Sequence[str], options: Mapping[str, Any]) -> None:
    """Put blocks into a network of the table, and note them in its config."""
    import torch

    from nonlocalnet.blocks.insertion import add_non_local

    texts = isinstance(after, list | tuple) and after and all(type(p) is str for p in after)
    if not texts or not isinstance(options, Mapping):
        raise ValueError(
            "insert must be a list of module paths and insert_options a mapping; got "
            f"{shown(after)} and {shown(options)}"
        )
    if "clip" not in network.config:
        raise ValueError(
            f"insert is for video networks; for {network.config['name']} use nl.add_non_local"
        )
    frames, crop = ClipSpec.parse(network.config["clip"]).frames, network.config["crop"]
    # the device of the network, which may be "meta": then nothing is computed
    device = next(network.parameters()).device
    example = torch.zeros(1, 3, frames, crop, crop, device=device)
    try:
        add_non_local(network, list(after), example=example, verbose=False, **options)
    except TypeError as error:
        raise ValueError(f"insert_options: {error}") from None
    network.config |= {"insert": list(after)}
    if options:
        network.config |= {"insert_options": dict(options)}
