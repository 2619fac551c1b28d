import json

import pytest
from PIL import Image

import nonlocalnet as nl
from looking import PIXEL, BrightestPlace, clip_with_a_pixel


@pytest.fixture(scope="module")
def found():
    return nl.look(BrightestPlace(), clip_with_a_pixel(*PIXEL), title="one pixel")


def test_the_ending_says_what_is_written(found, tmp_path):
    with Image.open(found.save(tmp_path / "new" / "a.png", style="arrows")) as picture:
        assert picture.size[0] > 1000
    numbers = json.loads(found.save(tmp_path / "a.json").read_text())
    assert numbers == json.loads(json.dumps(found.statistics()))
    assert "one pixel" in found.save(tmp_path / "a.HTML").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"new", "a.json", "a.HTML"}


def test_another_ending(found, tmp_path):
    with pytest.raises(ValueError, match=r"ending of the file must be one of '\.html'"):
        found.save(tmp_path / "a.gif")


def test_in_a_notebook_it_shows_itself(found):
    text = found._repr_html_()
    assert text.startswith("<iframe srcdoc=")
    assert "<script" not in text  # escaped: apart from the notebook's own
