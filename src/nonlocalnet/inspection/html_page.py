"""A look as one HTML file that opens from disk: no server, no network, no other file."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import math
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nonlocalnet.inspection.analysis import BlockMap
from nonlocalnet.inspection.even import EVEN
from nonlocalnet.inspection.geometry import Axis, lift
from nonlocalnet.inspection.look import Look
from nonlocalnet.runtime.atomic import write_atomically

MIB = 1 << 20
MODULES = ("attention", "draw", "panel", "app")
QUALITY = 88  # of JPEG frames
SPARE = 512  # bytes a block, for its longer description where positions are left out
Thin = tuple[int, int, int]


def static(name: str) -> str:
    """Read a file of the page: look.css, a module, page.html."""
    return files("nonlocalnet.inspection").joinpath("static", name).read_text("utf-8")


def about(look: Look, thin: dict[str, Thin] | None = None) -> dict[str, Any]:
    """Describe a look to the page: frames, blocks and numbers, as plain values.

    θ and φ are named here, and given by `parts`. `thin` keeps every k-th position of a block along
    (t, y, x): the point under the pointer is then the nearest of those.
    """
    picture = _picture(look)
    count, height, width = picture
    block = look.block
    attention = look.attention
    center = _on_picture(block, attention.query, picture)
    return {
        "title": look.title,
        "picture": {"count": count, "height": height, "width": width},
        "times": look.times,
        "fps": _frame_rate(look),
        "frames": [_jpeg(frame) for frame in look.frames],
        "prediction": [[name, p] for name, p in look.prediction],
        "multi_label": look.multi_label,
        "blocks": [
            _describe(look, number, one, (thin or {}).get(one.name, (1, 1, 1)))
            for number, one in enumerate(look.analysis.blocks.values())
        ],
        "start": {
            "layer": list(look.analysis.blocks).index(block.name),
            "at": center,
            "top": look.top,
        },
    }


def parts(look: Look, thin: dict[str, Thin] | None = None) -> dict[str, bytes]:
    """Give the numbers that rows are computed from, float16, by the names that `about` gives."""
    found: dict[str, bytes] = {}
    for number, block in enumerate(look.analysis.blocks.values()):
        theta, phi = _numbers(block, (thin or {}).get(block.name, (1, 1, 1)))
        found[f"theta{number}"], found[f"phi{number}"] = theta[0], phi[0]
    return found


def part(look: Look, name: str) -> bytes | None:
    """Give one of `parts`; None if there is none of that name."""
    for number, block in enumerate(look.analysis.blocks.values()):
        if name in (f"theta{number}", f"phi{number}"):
            theta, phi = _numbers(block, (1, 1, 1))
            return theta[0] if name.startswith("theta") else phi[0]
    return None


def write_page(look: Look, path: Path, *, max_mib: float = 32.0) -> None:
    """Write the page.

    Rows of weights are computed in the page from θ and φ in float16, which are linear in the
    positions, not from N x M numbers. Where the file would exceed `max_mib`, every second position
    of the largest blocks is left out, along the axis with most positions, until it fits.

    Raises:
        ValueError: it does not fit with every eighth position alone either.
    """
    text = page(look, max_mib=max_mib)
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def page(look: Look, *, max_mib: float = 32.0) -> str:
    """Make the page's text."""
    thin = _fit(look, int(max_mib * MIB))
    return _text(look, thin, parts(look, thin))


def _text(look: Look, thin: dict[str, Thin], numbers: dict[str, bytes]) -> str:
    blobs = {name: base64.b64encode(data).decode() for name, data in numbers.items()}
    modules = {
        f"look/{name}": "data:text/javascript;base64,"
        + base64.b64encode(static(f"{name}.js").encode()).decode()
        for name in MODULES
    }
    embedded = [f'<script type="application/json" id="about">{_json(about(look, thin))}</script>']
    embedded += [
        f'<script type="text/plain" id="{name}">{text}</script>' for name, text in blobs.items()
    ]
    left_out = [name for name, factors in thin.items() if max(factors) > 1]
    note = "What a point of the clip looks at: point at a frame."
    if look.image is not None:
        note = "What a point of the image looks at: point at it."
        if look.image != look.analysis.size:
            note += " Striped is padding, which the network sees too."
        if look.region is not None:
            note += " The outline is the region that layers in the head look at."
    if left_out:
        note += f" Points lie on a coarser grid in {', '.join(left_out)}, to keep this file small."
    return Template(static("page.html")).substitute(
        title=html.escape(look.title or "What the network looks at"),
        note=html.escape(note),
        style=f"<style>{static('look.css')}</style>",
        imports=json.dumps({"imports": modules}),
        parts="\n".join(embedded),
        start='import { start } from "look/app"; start();',
    )


def notebook(look: Look) -> str:
    """Show the page in a notebook's cell, apart from the notebook's own scripts."""
    text = html.escape(page(look), quote=True)
    return (
        f'<iframe srcdoc="{text}" sandbox="allow-scripts allow-downloads" '
        'style="width:100%;height:860px;border:0"></iframe>'
    )


def _describe(look: Look, number: int, block: BlockMap, thin: Thin) -> dict[str, Any]:
    picture = _picture(look)
    queries, keys = (lift(grid, block.clip, picture) for grid in (block.queries, block.keys))
    summary, points = look.summaries[block.name]
    (_, theta), (_, phi) = _numbers(block, thin)
    offsets = [_kept(axis.count, k).start for axis, k in zip(queries, thin, strict=True)]
    key_group = None
    if block.group:
        key_group = block.group * keys[0].count // queries[0].count
    return {
        "name": block.name,
        "pairwise": block.pairwise,
        "scale": block.scale,
        "extent": block.extent,
        "evenly": summary.evenly,
        "even": EVEN,
        "group": block.group,
        "key_group": key_group,
        "thin": thin,
        "offset": offsets,
        "queries": [
            _thinned(axis, k, offset)
            for axis, k, offset in zip(queries, thin, offsets, strict=True)
        ],
        "keys": [dataclasses.asdict(axis) for axis in keys],
        "depth": block.theta.shape[2],
        "theta": {"name": f"theta{number}", "factor": theta},
        "phi": {"name": f"phi{number}", "factor": phi},
        "summary": {
            "mean": summary.mean.plain(),
            "even": summary.even.plain(),
            "common": summary.common,
            "keys": summary.keys,
        },
        "points": [
            {
                "at": _on_picture(block, point.query, picture),
                "reason": point.reason,
                "own": point.own,
            }
            for point in points
        ],
    }


def _fit(look: Look, most: int) -> dict[str, Thin]:
    """Choose how many positions of each block are kept so that all numbers fit."""
    thin: dict[str, Thin] = dict.fromkeys(look.analysis.blocks, (1, 1, 1))
    rest = len(_text(look, thin, {}).encode()) + SPARE * len(thin)

    def bytes_of(block: BlockMap) -> int:
        axes = zip(_three(block.size), thin[block.name], strict=True)
        kept = math.prod(len(range(n)[_kept(n, k)]) for n, k in axes)
        return (kept + block.phi.shape[0] * block.phi.shape[1]) * block.theta.shape[2] * 2

    while True:
        sizes = {name: bytes_of(block) for name, block in look.analysis.blocks.items()}
        if rest + sum(sizes.values()) * 4 // 3 <= most:
            return thin
        open_ones = [name for name in sizes if max(thin[name]) < 8]
        if not open_ones:
            raise ValueError(
                f"the page would take more than max_mib = {most / MIB:g} with every eighth "
                "position alone: allow more, or a shorter clip"
            )
        name = max(open_ones, key=lambda name: sizes[name])
        size, before = _three(look.analysis.blocks[name].size), thin[name]
        axis = max(range(3), key=lambda k: size[k] / before[k])
        t, y, x = (2 * k if i == axis else k for i, k in enumerate(before))
        thin[name] = t, y, x


def _numbers(block: BlockMap, thin: Thin) -> tuple[tuple[bytes, float], tuple[bytes, float]]:
    """Give θ and φ as float16, each with the factor that takes it back."""
    theta, phi = block.in_order()
    size = _three(block.size)
    cut = tuple(_kept(n, k) for n, k in zip(size, thin, strict=True))
    theta = theta.view(*size, -1)[cut].flatten(0, 2)
    return _half(theta), _half(phi)


def _half(values: Tensor) -> tuple[bytes, float]:
    factor = float(values.abs().max()) or 1.0
    return (values / factor).to(torch.float16).contiguous().numpy().astype("<f2").tobytes(), factor


def _kept(count: int, k: int) -> slice:
    """Every k-th of so many positions, from the middle of the first k."""
    return slice(min(k // 2, count - 1), None, k)


def _thinned(axis: Axis, k: int, offset: int) -> dict[str, float]:
    count = len(range(offset, axis.count, k))
    start = axis.start + offset * axis.stride
    return {"start": start, "stride": axis.stride * k, "count": count, "cell": axis.stride}


def _three(size: tuple[int, ...]) -> tuple[int, int, int]:
    """Positions along (t, y, x) of the picture: see `geometry.lift`."""
    if len(size) == 3:
        return size[0], size[1], size[2]
    return (1, size[0], size[1]) if len(size) == 2 else (1, 1, size[0])


def _picture(look: Look) -> tuple[int, float, float]:
    """Give the axes that the page speaks in: the clip's own, of a sequence those of its strip."""
    count, _, height, width = look.frames.shape
    if len(look.analysis.size) > 1:
        height, width = look.analysis.size[-2:]
    return count, height, width


def _on_picture(
    block: BlockMap, query: tuple[int, ...], picture: tuple[int, float, float]
) -> list[float]:
    index = (0,) * (3 - len(query)) + tuple(query)
    grid = lift(block.queries, block.clip, picture)
    return [axis.start + i * axis.stride for axis, i in zip(grid, index, strict=True)]


def _frame_rate(look: Look) -> float | None:
    """Frames of the clip a second, by which playing takes the time that it took."""
    times = look.times
    if not times or len(times) < 2 or times[1] <= times[0]:
        return None
    return 1 / (times[1] - times[0])


def _jpeg(frame: Tensor) -> str:
    buffer = io.BytesIO()
    picture: np.ndarray = frame.permute(1, 2, 0).numpy()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _json(values: Any) -> str:
    """Write JSON that cannot end the script that it stands in."""
    return json.dumps(values).replace("<", "\\u003c")
