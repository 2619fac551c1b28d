"""The page's own arithmetic, static/attention.js, run by node against ours."""

import json
import math
import shutil
import subprocess

import pytest
import torch
from torch import nn

import nonlocalnet as nl
from nonlocalnet.inspection.attention import EVEN, excess
from nonlocalnet.inspection.html_page import arrays, metadata, static
from nonlocalnet.inspection.statistics import describe

PAIRWISE = ["gaussian", "embedded_gaussian", "dot_product", "concatenation"]
SIZES = {1: (13,), 2: (6, 9), 3: (4, 5, 7)}
LAYOUTS = {
    "sequence": (1, {"subsample": 2}),
    "image": (2, {"subsample": 2, "subsample_position": "after"}),
    "spacetime": (3, {"subsample": (1, 2, 2)}),
    "space": (3, {"extent": "space", "subsample": (1, 2, 2)}),
    "time": (3, {"extent": "time", "subsample": (2, 1, 1)}),
    "groups": (3, {"temporal_group": 2, "subsample": (2, 2, 2)}),
    "causal": (3, {"extent": "causal", "subsample": (1, 2, 2)}),
    "heads": (3, {"heads": 3, "inner_channels": 3, "extent": "causal"}),
    "thin": (3, {"subsample": (1, 2, 2)}),
    "thin space": (3, {"extent": "space"}),
    "thin time": (3, {"extent": "time"}),
    "thin groups": (3, {"temporal_group": 2}),
    "thin causal": (3, {"extent": "causal"}),
}
THIN = {
    "thin": (1, 2, 4),
    "thin space": (2, 2, 1),
    "thin time": (1, 2, 2),
    "thin groups": (2, 1, 2),
    "thin causal": (2, 1, 2),
}
CASES = [(pairwise, layout) for pairwise in PAIRWISE for layout in LAYOUTS]

RUN = """
import { readFileSync } from "node:fs";
import { BlockMap, fromHalf } from "./attention.mjs";
const bytes = (text) => Uint8Array.from(Buffer.from(text, "hex")).buffer;
const finite = (w) => (Number.isNaN(w) ? null : w);
const told = JSON.parse(readFileSync("cases.json", "utf8")).map(({ block, theta, phi }) => {
  const half = (data, { factor }) => fromHalf(bytes(data), factor);
  const map = new BlockMap(block, half(theta, block.theta), half(phi, block.phi));
  const found = [];
  const [frames, rows, columns] = block.queries.map((axis) => axis.count);
  for (let t = 0; t < frames; t++)
    for (let y = 0; y < rows; y++)
      for (let x = 0; x < columns; x++) {
        const query = [t, y, x];
        const row = map.row(query);
        const top = map.top(row, 3).map((one) => one.key);
        const excess = [...map.excess(row)].map(finite);
        const relative = Object.assign(Object.create(map), { each_frame: true });
        const eachFrame = [...relative.excess(row)].map(finite);
        const measured = map.measure(query, row);
        const shares = [...measured.shares];
        const nearest = map.nearest(map.center(query));
        const values = [...row].map(finite);
        found.push({ query, nearest, row: values, top, excess, eachFrame, measured, shares });
      }
  return found;
});
console.log(JSON.stringify(told));
"""


def look_at(pairwise, layout):
    dims, options = LAYOUTS[layout]
    torch.manual_seed(0)
    options = {"inner_channels": 4} | options  # scale 1/2
    block = nl.NonLocalBlock(3, dims, pairwise, **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return nl.look(nn.Sequential(block), torch.randn(3, *SIZES[dims]))


@pytest.fixture(scope="module")
def looks():
    return {case: look_at(*case) for case in CASES}


@pytest.fixture(scope="module")
def told(looks, tmp_path_factory):
    """What the page computes of every position: one run of node for all."""
    if shutil.which("node") is None:
        pytest.skip("needs node on PATH")
    folder = tmp_path_factory.mktemp("node")
    cases = []
    for (_, layout), found in looks.items():
        thin = {found.block.name: THIN[layout]} if layout in THIN else None
        data = arrays(found, thin)
        block = json.loads(json.dumps(metadata(found, thin)))["blocks"][0]
        cases.append({"block": block, "theta": data["theta0"].hex(), "phi": data["phi0"].hex()})
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "attention.mjs").write_text(static("attention.js"), encoding="utf-8")
    (folder / "run.mjs").write_text(RUN)
    done = subprocess.run(
        ["node", "run.mjs"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


def ours(block, layout, query):
    """The flattened position that a query of the page's grid stands for."""
    thin = THIN.get(layout, (1, 1, 1))
    size = (1,) * (3 - len(block.size)) + block.size
    t, y, x = (q * k + min(k // 2, n - 1) for q, k, n in zip(query, thin, size, strict=True))
    return (t * size[1] + y) * size[2] + x


def rounding(block, rows):
    """How far weights may be off, θ and φ being rounded to float16, by 2^-11 of themselves.

    Numbers below 2^-14 of the largest are rounded by 2^-25 of it. A score of d products is off by
    s <= d · (2 · 2^-11 + 2^-20) · max|θ| · max|φ| (2^-20 for squares and the small ones); a weight
    of a softmax by exp(2 s) - 1 of itself, of the other forms by s / M. float32 adds 1e-6.
    """
    fewest = block.key_rows.shape[1] // (block.key_size[0] if block.extent == "causal" else 1)
    theta, phi = float(block.theta.abs().max()), float(block.phi.abs().max())
    if block.pairwise == "concatenation":  # a sum, not a product
        return (2**-11 + 2**-20) * (theta + phi) / fewest + 1e-6
    score = block.theta.shape[2] // block.heads * (2**-10 + 2**-20) * theta * phi
    if block.pairwise == "dot_product":
        return score / fewest + 1e-6
    return math.expm1(2 * score * block.scale) * rows + 1e-6


@pytest.mark.parametrize(("pairwise", "layout"), CASES)
def test_rows_of_the_page_are_those_of_the_block(looks, told, pairwise, layout):
    block, found = looks[pairwise, layout].block, told[pairwise, layout]
    rows = block.rows(torch.tensor([ours(block, layout, one["query"]) for one in found]))
    bound = torch.as_tensor(rounding(block, rows)).expand(rows.shape)
    assert bound.max() < 0.06 * rows.abs().max()  # it can tell
    group = block._row_of[[ours(block, layout, one["query"]) for one in found]]
    for one, row, most, b in zip(
        found, rows, bound, group // block.query_rows.shape[1], strict=True
    ):
        seen = torch.zeros(len(row), dtype=torch.bool)
        seen[block.key_rows[b]] = True
        if block.extent == "causal":  # frames of as many keys as the others, up to the query's
            t = ours(block, layout, one["query"]) // math.prod(block.size[1:])
            seen.view(block.size[0], -1)[t + 1 :] = False
        assert [w is not None for w in one["row"]] == seen.tolist()
        mine = torch.tensor([w or 0.0 for w in one["row"]])
        assert ((mine - row).abs() <= most).all()
        if block.pairwise in ("gaussian", "embedded_gaussian"):
            assert float(mine.sum()) == pytest.approx(1, abs=1e-5)
        beyond = torch.tensor([w or 0.0 for w in one["excess"]])
        torch.testing.assert_close(beyond, excess(mine, int(seen.sum())), atol=1e-6, rtol=1e-4)
        if len(block.size) == 3:
            of_frames = excess(mine.view(block.key_size[0], -1), math.prod(block.key_size[1:]))
            of_frames /= of_frames.abs().amax(1, keepdim=True).clamp(min=1e-30)
            relative = torch.tensor([w or 0.0 for w in one["eachFrame"]])
            torch.testing.assert_close(relative, of_frames.flatten(), atol=1e-4, rtol=1e-3)
        assert len(one["top"]) == min(3, int((beyond.abs() >= 0.02 * beyond.abs().max()).sum()))
        heaviest = mine.abs().argsort(descending=True, stable=True)[: len(one["top"])]
        assert mine[one["top"]].abs().tolist() == mine[heaviest].abs().tolist()
        assert one["nearest"] == one["query"]


@pytest.mark.parametrize(("pairwise", "layout"), CASES)
def test_numbers_of_the_page_are_ours(looks, told, pairwise, layout):
    found = looks[pairwise, layout]
    block = found.block
    numbers = describe(block, [ours(block, layout, o["query"]) for o in told[pairwise, layout]])
    rows = block.rows(
        torch.tensor([ours(block, layout, o["query"]) for o in told[pairwise, layout]])
    )
    # rows are apart by rounding to half alone: see above
    for one, expected, row in zip(told[pairwise, layout], numbers, rows, strict=True):
        if not row.any():  # a concatenation may see nothing at all
            continue
        measured = one["measured"]
        assert measured["keys"] == sum(w is not None for w in one["row"])
        assert measured["uneven"] == pytest.approx(expected.uneven, abs=0.01)
        if abs(expected.uneven - EVEN) > 0.01:
            assert measured["evenly"] == (expected.uneven < EVEN)
        assert sum(one["shares"]) == pytest.approx(1, abs=1e-5)
        assert measured["places"] == pytest.approx(expected.places, rel=0.02)
        if expected.same_frame is not None:
            assert measured["same_frame"] == pytest.approx(expected.same_frame, abs=0.01)
        if expected.distance is not None:
            assert measured["distance"] == pytest.approx(expected.distance, abs=0.05)
        if expected.frames is not None and len(block.size) == 3:
            assert measured["frames"] == pytest.approx(expected.frames, abs=0.02)
