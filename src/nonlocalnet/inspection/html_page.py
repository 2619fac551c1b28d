"""Write a scene as a self-contained HTML page that opens from disk."""

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

import torch
from PIL import Image
from torch import Tensor

from nonlocalnet.inspection.attention import EVEN, BlockMap
from nonlocalnet.inspection.geometry import Axis, lift
from nonlocalnet.inspection.scene import Scene
from nonlocalnet.runtime.atomic import write_atomically

MIB = 1 << 20
MODULES = ("attention", "draw", "panel", "app")
QUALITY = 88  # of JPEG frames
SPARE = 512  # bytes per block: descriptions are longer where positions are left out

Thin = tuple[int, int, int]  # every k-th position along (t, y, x) is kept
ALL: Thin = (1, 1, 1)


def static(name: str) -> str:
    """Read a file of the page: look.css, page.html or a module."""
    return files("nonlocalnet.inspection").joinpath("static", name).read_text("utf-8")


def metadata(scene: Scene, thin: dict[str, Thin] | None = None) -> dict[str, Any]:
    """Return all that the page shows but θ and φ, which `arrays` returns, as plain values.

    Args:
        scene: what to show.
        thin: by block, which positions to keep: every k-th along (t, y, x).
    """
    picture = _picture(scene)
    count, height, width = picture
    block = scene.block
    return {
        "title": scene.title,
        "picture": {"count": count, "height": height, "width": width},
        "times": scene.times,
        "fps": _frame_rate(scene),
        "frames": [_jpeg(frame) for frame in scene.frames],
        "prediction": [[name, p] for name, p in scene.prediction],
        "multi_label": scene.multi_label,
        "blocks": [
            _describe(scene, number, one, (thin or {}).get(one.name, ALL))
            for number, one in enumerate(scene.analysis.blocks.values())
        ],
        "start": {
            "layer": scene.layer[0] - 1,
            "at": _on_picture(block, scene.attention.query, picture),
            "top": scene.top,
        },
    }


def arrays(scene: Scene, thin: dict[str, Thin] | None = None) -> dict[str, bytes]:
    """Return θ and φ of every block as float16, by the names that `metadata` gives them."""
    found: dict[str, bytes] = {}
    for number, block in enumerate(scene.analysis.blocks.values()):
        theta, phi = _halves(block, (thin or {}).get(block.name, ALL))
        found[f"theta{number}"], found[f"phi{number}"] = theta[0], phi[0]
    return found


def array(scene: Scene, name: str) -> bytes | None:
    """Return one of `arrays`; None if there is none of that name."""
    for number, block in enumerate(scene.analysis.blocks.values()):
        for kind, (data, _) in zip(("theta", "phi"), _halves(block, ALL), strict=True):
            if name == f"{kind}{number}":
                return data
    return None


def write(scene: Scene, path: Path, *, max_mib: float = 32.0) -> None:
    """Write the page.

    Args:
        scene: what to show.
        path: the file (.html).
        max_mib: maximum size of the file: see `render`.

    Raises:
        ValueError: as `render`.
    """
    text = render(scene, max_mib=max_mib)
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def render(scene: Scene, *, max_mib: float = 32.0) -> str:
    """Return the text of the page.

    The page computes rows of weights from θ and φ in float16, whose size is linear in the number
    of positions. While it would be larger than `max_mib`, every second position of the largest
    block is left out, along the axis with the most positions.

    Raises:
        ValueError: it is still too large if only every eighth position is kept.
    """
    thin = _fit(scene, int(max_mib * MIB))
    return _text(scene, thin, arrays(scene, thin))


def _text(scene: Scene, thin: dict[str, Thin], data: dict[str, bytes]) -> str:
    blobs = {name: base64.b64encode(part).decode() for name, part in data.items()}
    modules = {
        f"look/{name}": "data:text/javascript;base64,"
        + base64.b64encode(static(f"{name}.js").encode()).decode()
        for name in MODULES
    }
    embedded = [
        f'<script type="application/json" id="about">{_json(metadata(scene, thin))}</script>'
    ]
    embedded += [
        f'<script type="text/plain" id="{name}">{text}</script>' for name, text in blobs.items()
    ]
    left_out = [name for name, factors in thin.items() if max(factors) > 1]
    note = "Point at a frame to see what that point of the clip attends to."
    if scene.image is not None:
        note = "Point at the image to see what that point attends to."
        if scene.image != scene.analysis.size:
            note += " The striped border is padding, which the network sees too."
        if scene.region is not None:
            note += " The outline is the region that layers in the head see."
    for name, block in scene.analysis.blocks.items():
        note += f" {name} shows {block.shown}." if block.shown else ""
    if left_out:
        note += f" Points lie on a coarser grid in {', '.join(left_out)} to keep this file small."
    return Template(static("page.html")).substitute(
        title=html.escape(scene.title or "What the network attends to"),
        note=html.escape(note),
        style=f"<style>{static('look.css')}</style>",
        imports=json.dumps({"imports": modules}),
        parts="\n".join(embedded),
        start='import { start } from "look/app"; start();',
    )


def notebook(scene: Scene) -> str:
    """Return an element that shows the page in a notebook, isolated from the notebook's scripts."""
    text = html.escape(render(scene), quote=True)
    return (
        f'<iframe srcdoc="{text}" sandbox="allow-scripts allow-downloads" '
        'style="width:100%;height:860px;border:0"></iframe>'
    )


def _describe(scene: Scene, number: int, block: BlockMap, thin: Thin) -> dict[str, Any]:
    picture = _picture(scene)
    queries, keys = (lift(grid, block.clip, picture) for grid in (block.queries, block.keys))
    summary, points = scene.summaries[block.name]
    (_, theta), (_, phi) = _halves(block, thin)
    offsets = [_kept(axis.count, k).start for axis, k in zip(queries, thin, strict=True)]
    key_group = None
    if block.group:
        key_group = block.group * keys[0].count // queries[0].count
    return {
        "name": block.name,
        "pairwise": block.pairwise,
        "scale": block.scale,
        "extent": block.extent,
        "heads": block.heads,
        "evenly": summary.evenly,
        "each_frame": scene.each_frame,
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
            "mean": summary.mean.to_dict(),
            "even": summary.even.to_dict(),
            "common": summary.common,
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


def _fit(scene: Scene, most: int) -> dict[str, Thin]:
    """Choose which positions of each block to keep so that the page fits into `most` bytes."""
    thin: dict[str, Thin] = dict.fromkeys(scene.analysis.blocks, ALL)
    rest = len(_text(scene, thin, {}).encode()) + SPARE * len(thin)

    def bytes_of(block: BlockMap) -> int:
        axes = zip(_three(block.size), thin[block.name], strict=True)
        kept = math.prod(len(range(n)[_kept(n, k)]) for n, k in axes)
        return (kept + block.phi.shape[0] * block.phi.shape[1]) * block.theta.shape[2] * 2

    while True:
        sizes = {name: bytes_of(block) for name, block in scene.analysis.blocks.items()}
        if rest + sum(sizes.values()) * 4 // 3 <= most:
            return thin
        open_ones = [name for name in sizes if max(thin[name]) < 8]
        if not open_ones:
            raise ValueError(
                f"the page would take more than max_mib = {most / MIB:g} even with only every "
                "eighth position: raise max_mib, or use a shorter clip"
            )
        name = max(open_ones, key=lambda name: sizes[name])
        size, before = _three(scene.analysis.blocks[name].size), thin[name]
        axis = max(range(3), key=lambda k: size[k] / before[k])
        t, y, x = (2 * k if i == axis else k for i, k in enumerate(before))
        thin[name] = t, y, x


def _halves(block: BlockMap, thin: Thin) -> tuple[tuple[bytes, float], tuple[bytes, float]]:
    """Return θ and φ scaled to float16, each with the factor that reverts the scaling."""
    theta, phi = block.in_order()
    size = _three(block.size)
    cut = tuple(_kept(n, k) for n, k in zip(size, thin, strict=True))
    theta = theta.view(*size, -1)[cut].flatten(0, 2)
    return _half(theta), _half(phi)


def _half(values: Tensor) -> tuple[bytes, float]:
    factor = float(values.abs().max()) or 1.0
    return (values / factor).to(torch.float16).contiguous().numpy().astype("<f2").tobytes(), factor


def _kept(count: int, k: int) -> slice:
    """Select every k-th of `count` positions, from the middle of the first k."""
    return slice(min(k // 2, count - 1), None, k)


def _thinned(axis: Axis, k: int, offset: int) -> dict[str, float]:
    count = len(range(offset, axis.count, k))
    start = axis.center(offset)
    return {"start": start, "stride": axis.stride * k, "count": count, "cell": axis.stride}


def _three(size: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the number of positions along (t, y, x) of the picture: see `geometry.lift`."""
    if len(size) == 3:
        return size[0], size[1], size[2]
    return (1, size[0], size[1]) if len(size) == 2 else (1, 1, size[0])


def _picture(scene: Scene) -> tuple[int, float, float]:
    """Return the axes that the page uses: those of the clip, or of the strip of a sequence."""
    count, _, height, width = scene.frames.shape
    if len(scene.analysis.size) > 1:
        height, width = scene.analysis.size[-2:]
    return count, height, width


def _on_picture(
    block: BlockMap, query: tuple[int, ...], picture: tuple[int, float, float]
) -> list[float]:
    index = (0,) * (3 - len(query)) + tuple(query)
    grid = lift(block.queries, block.clip, picture)
    return [axis.center(i) for axis, i in zip(grid, index, strict=True)]


def _frame_rate(scene: Scene) -> float | None:
    """Return the clip's frames per second of video, so that it plays at the original speed."""
    times = scene.times
    if not times or len(times) < 2 or times[1] <= times[0]:
        return None
    return 1 / (times[1] - times[0])


def _jpeg(frame: Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _json(values: Any) -> str:
    """Return JSON that cannot close the script element around it."""
    return json.dumps(values).replace("<", "\\u003c")
