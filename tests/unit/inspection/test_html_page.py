import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import nn

import nonlocalnet as nl
from nonlocalnet.inspection.html_page import (
    MIB,
    _kept,
    array,
    arrays,
    metadata,
    notebook,
    render,
    write,
)

PAIRWISE = ["gaussian", "embedded_gaussian", "dot_product", "concatenation"]


def look_with(pairwise="embedded_gaussian", size=(4, 12, 16), **options):
    torch.manual_seed(0)
    block = nl.NonLocalBlock(3, 3, pairwise, subsample=(1, 2, 2), **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return nl.look(nn.Sequential(nn.Conv3d(3, 3, 1), block), torch.rand(3, *size), title="t")


def numbers_of(found, thin=None):
    """θ and φ as the page gets them."""
    told = metadata(found, thin)["blocks"][0]
    data = arrays(found, thin)
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
    whole = len(render(found)) / MIB
    assert whole > 2.5  # 16384 x 64 x 2 bytes are 2 MiB, in base64 2.7
    write(found, tmp_path / "a.html", max_mib=1.5)
    assert (tmp_path / "a.html").stat().st_size <= 1.5 * MIB
    assert "Points lie on a coarser grid" in (tmp_path / "a.html").read_text()
    with pytest.raises(ValueError, match=r"more than max_mib = 0\.2 even with only every eighth"):
        write(found, tmp_path / "b.html", max_mib=0.2)
    assert not (tmp_path / "b.html").exists()


def test_all_of_the_page_counts_not_numbers_alone(tmp_path):
    found = look_with(size=(4, 24, 24), inner_channels=64)
    whole = len(render(found).encode())
    sizes = []
    for part_of in range(30, 105, 5):
        most = whole * part_of / 100 / MIB
        try:
            text = render(found, max_mib=most)
        except ValueError:
            continue
        sizes.append(len(text.encode()))
        assert sizes[-1] <= most * MIB
    assert len(set(sizes)) > 2  # whole, and thinned by two and by four at least


def test_an_axis_shorter_than_its_factor_keeps_a_position():
    block = nl.NonLocalBlock(3, 3, "gaussian")
    found = nl.look(nn.Sequential(block), torch.rand(3, 1, 2, 2))
    for k, n in ((2, 1), (4, 2), (8, 3), (8, 4)):
        told, (theta, _) = numbers_of(found, {"0": (1, k, k)})
        assert [axis["count"] for axis in told["queries"]] == [1, 1, 1]
        assert len(theta) == 1
        assert len(range(n)[_kept(n, k)]) == 1


def test_the_page_is_utf_8_wherever_it_is_written(tmp_path):
    found = look_with()
    object.__setattr__(found, "title", "θ – ein Blick")
    write(found, tmp_path / "a.html")
    assert "<h1>θ – ein Blick</h1>" in (tmp_path / "a.html").read_bytes().decode("utf-8")


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_a_title_makes_no_elements():
    found, evil = look_with(), "</script></title><img src=x onerror=alert(1)>\"'&lt;$title"
    plain, other = Elements(), Elements()
    plain.feed(render(found))
    object.__setattr__(found, "title", evil)
    other.feed(render(found))
    assert other.seen == plain.seen
    assert not any("onerror" in attributes for _, attributes in other.seen)


def test_a_notebook_gets_the_page_in_a_frame_of_its_own():
    found, frame = look_with(), Elements()
    frame.feed(notebook(found))
    ((tag, attributes),) = frame.seen
    assert tag == "iframe"
    assert attributes["srcdoc"] == render(found)
    assert "allow-same-origin" not in attributes["sandbox"]


def test_the_page_is_one_file_and_asks_for_nothing():
    text = render(look_with())
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "http" not in text.replace("http://www.w3.org", "")


def test_a_title_cannot_leave_its_place():
    found = look_with()
    object.__setattr__(found, "title", "</script><script>alert(1)</script>")
    text = render(found)
    assert "<script>alert" not in text
    told = re.search(r'id="about">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(told)["title"] == found.title


def test_parts_by_name():
    found = look_with()
    assert array(found, "theta0") == arrays(found)["theta0"]
    assert array(found, "phi0") == arrays(found)["phi0"]
    assert array(found, "theta1") is None
    assert array(found, "../about") is None
