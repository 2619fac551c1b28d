import json
import re

import numpy as np
import pytest
import torch
from torch import nn

import nonlocalnet as nl
from nonlocalnet.inspection.document import MIB, about, page, part, parts, write_page

PAIRWISE = ["gaussian", "embedded_gaussian", "dot_product", "concatenation"]


def look_with(pairwise="embedded_gaussian", size=(4, 12, 16), **options):
    torch.manual_seed(0)
    block = nl.NonLocalBlock(3, 3, pairwise, subsample=(1, 2, 2), **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return nl.look(nn.Sequential(nn.Conv3d(3, 3, 1), block), torch.rand(3, *size), title="t")


def numbers_of(found, thin=None):
    """θ and φ as the page gets them."""
    told = about(found, thin)["blocks"][0]
    data = parts(found, thin)
    return told, [
        torch.from_numpy(
            np.frombuffer(data[told[name]["name"]], "<f2").astype(np.float32) * told[name]["factor"]
        ).view(-1, told["depth"])
        for name in ("theta", "phi")
    ]


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_the_page_has_what_makes_the_rows(pairwise):
    found = look_with(pairwise)
    told, (theta, phi) = numbers_of(found)
    block = found.block
    rows = block.rows(torch.arange(4 * 12 * 16))
    if pairwise == "concatenation":
        mine = (theta + phi.T).relu() / len(phi)
    elif pairwise == "dot_product":
        mine = theta @ phi.T / len(phi)
    else:
        mine = (theta @ phi.T * (told["scale"] or 1)).softmax(1)
    # rounding to half is 2^-11 of each number at most: of a score, 2^-10 |θ| |φ|
    if pairwise == "concatenation":
        error = 2**-11 * (theta.abs().max() + phi.abs().max()) / len(phi)
    else:
        error = 2**-10 * theta.norm(dim=1).max() * phi.norm(dim=1).max()
        error = error / len(phi) if pairwise == "dot_product" else error * (told["scale"] or 1)
    assert (mine - rows).abs().max() <= error


def test_a_coarser_grid_keeps_every_kth_position_and_all_keys():
    found = look_with()
    _, (whole, keys) = numbers_of(found)
    told, (theta, phi) = numbers_of(found, {"1": (1, 4, 2)})
    assert torch.equal(phi, keys)
    # the third of every four rows, the second of every two columns
    expected = whole.view(4, 12, 16, -1)[:, 2::4, 1::2].reshape(len(theta), -1)
    # each is rounded to half by its own factor
    torch.testing.assert_close(theta, expected, atol=2**-11 * float(whole.abs().max()), rtol=2**-10)
    t, y, x = told["queries"]
    assert (t["count"], y["count"], x["count"]) == (4, 3, 8)
    assert y == {"start": 2.5, "stride": 4, "count": 3, "cell": 1}
    assert x == {"start": 1.5, "stride": 2, "count": 8, "cell": 1}
    assert told["offset"] == [0, 2, 1]


def test_the_page_stays_within_its_size(tmp_path):
    found = look_with(size=(4, 64, 64), inner_channels=64)
    whole = len(page(found)) / MIB
    assert whole > 2.5  # 16384 x 64 x 2 bytes are 2 MiB, in base64 2.7
    write_page(found, tmp_path / "a.html", max_mib=1.5)
    assert (tmp_path / "a.html").stat().st_size <= 1.5 * MIB
    assert "Points lie on a coarser grid" in (tmp_path / "a.html").read_text()
    with pytest.raises(ValueError, match=r"more than max_mib = 0\.2 with every eighth"):
        write_page(found, tmp_path / "b.html", max_mib=0.2)
    assert not (tmp_path / "b.html").exists()


def test_the_page_is_one_file_and_asks_for_nothing():
    text = page(look_with())
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "http" not in text.replace("http://www.w3.org", "")


def test_a_title_cannot_leave_its_place():
    found = look_with()
    object.__setattr__(found, "title", "</script><script>alert(1)</script>")
    text = page(found)
    assert "<script>alert" not in text
    told = re.search(r'id="about">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(told)["title"] == found.title


def test_parts_by_name():
    found = look_with()
    assert part(found, "theta0") == parts(found)["theta0"]
    assert part(found, "phi0") == parts(found)["phi0"]
    assert part(found, "theta1") is None
    assert part(found, "../about") is None
