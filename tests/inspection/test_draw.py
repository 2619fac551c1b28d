import io

import numpy as np
import pytest
import torch
from matplotlib.patches import ConnectionPatch
from PIL import Image

from nonlocalnet.inspection.affinity import Attention
from nonlocalnet.inspection.draw import curves, figure3, panels
from nonlocalnet.inspection.page import page, paragraph, picture, table


def attention(weights, query=(3, 1, 2), size=(4, 4, 4)):
    return Attention("res3.non_local1", query, size, weights, True)


def arrows(figure):
    return [artist for artist in figure.get_children() if isinstance(artist, ConnectionPatch)]


def test_the_arrow_goes_from_the_querys_cell_to_the_centre_of_the_heaviest_key():
    weights = torch.zeros(4, 2, 2)
    weights[1, 0, 1] = 0.9
    weights[2, 1, 0] = 0.1
    figure = figure3(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), attention(weights), top=1)
    (arrow,) = arrows(figure)
    # cells of 8 pixels: row 1, column 2 has its centre at (20, 12); step 3 of 4 lies in frame 7
    assert arrow.xy1 == pytest.approx((20, 12))
    assert figure.axes.index(arrow.axesA) == 7
    # keys of 16 pixels: row 0, column 1 at (24, 8); step 1 of 4 lies in frame 3
    assert arrow.xy2 == pytest.approx((24, 8))
    assert figure.axes.index(arrow.axesB) == 3


def test_as_many_arrows_as_asked_for():
    figure = figure3(
        torch.zeros(8, 3, 32, 32, dtype=torch.uint8), attention(torch.rand(4, 2, 2)), top=5
    )
    assert len(arrows(figure)) == 5


def test_shares_of_the_frames_add_up():
    figure = figure3(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), attention(torch.rand(4, 2, 2)))
    shares = [int(axis.get_xlabel().split(": ")[1].rstrip("%")) for axis in figure.axes]
    assert sum(shares) == pytest.approx(100, abs=4)  # each is rounded


def test_the_heaviest_cell_is_the_brightest():
    weights = torch.full((1, 2, 2), 0.01)
    weights[0, 1, 0] = 1.0
    frames = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)
    figure = figure3(frames, attention(weights, (0, 0, 0), (1, 4, 4)), top=1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    image = np.asarray(Image.open(buffer).convert("L"), float)
    box = figure.axes[0].get_window_extent()
    height = image.shape[0]
    middle = round((box.x0 + box.x1) / 2)
    left = image[round(height - box.y0) - 12, round(box.x0) + 12]
    right = image[round(height - box.y0) - 12, middle + 12]
    assert left > right + 30


def test_one_line_a_run_one_legend_entry_a_group():
    figure = curves({"a": [([1, 2], [3, 4]), ([1, 2], [4, 5])], "b": [([1], [2])]}, ylabel="%")
    (axis,) = figure.axes
    assert len(axis.lines) == 3
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]


def test_a_run_looks_the_same_in_all_panels_and_stands_in_the_legend_once():
    names = [f"run {k}" for k in range(10)]
    loss = {name: ([1, 2], [k, k + 1]) for k, name in enumerate(names)}
    figure = panels({"loss": loss, "top-1": {"run 9": ([1], [2])}}, xlabel="iteration")
    top, bottom = figure.axes
    looks = [(line.get_color(), line.get_linestyle()) for line in top.lines]
    assert len(set(looks)) == 10
    assert (bottom.lines[0].get_color(), bottom.lines[0].get_linestyle()) == looks[9]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def test_a_page_is_one_file_and_escapes_what_it_is_given():
    figure = curves({"a": [([1], [1])]}, ylabel="%")
    parts = [paragraph("<script>"), table(("<b>",), (("&",),)), picture(figure, 'say "x"')]
    html = page("<title>", parts)
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html
    assert 'alt="say &quot;x&quot;"' in html
    assert "src=" in html
    assert html.count("src=") == html.count('src="data:image/png;base64,')
