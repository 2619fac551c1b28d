import io

import numpy as np
import pytest
import torch
from matplotlib.patches import ConnectionPatch, Rectangle
from PIL import Image

import nonlocalnet as nl
from looking import CELL, CENTER, PIXEL, BrightestPlace, clip_with_a_pixel
from nonlocalnet.inspection.attention import Attention
from nonlocalnet.inspection.figure import draw_figure
from nonlocalnet.inspection.geometry import Axis


def attention(weights, query=(3, 1, 2), pairwise="embedded_gaussian"):
    """8 frames of 32 x 32 pixels, positions of 2 frames and 8 pixels, keys of 2 x 2 of them."""
    queries = (Axis(1, 2, 4), Axis(4, 8, 4), Axis(4, 8, 4))
    keys = (Axis(1, 2, 4), Axis(8, 16, 2), Axis(8, 16, 2))
    return Attention("res3.non_local1", query, queries, keys, weights, pairwise, (8, 32, 32))


FRAMES = torch.full((8, 3, 32, 32), 200, dtype=torch.uint8)


def arrows(figure):
    return [artist for artist in figure.get_children() if isinstance(artist, ConnectionPatch)]


def frames_of(figure):
    return [axis for axis in figure.axes if axis.get_visible()][:-1]  # the last one is the bar


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"), float)


def test_the_arrow_goes_from_the_querys_center_to_that_of_the_heaviest_key():
    weights = torch.zeros(4, 2, 2)
    weights[1, 0, 1] = 0.9
    weights[2, 1, 0] = 0.1
    figure = draw_figure(FRAMES, attention(weights), top=1)
    (arrow,) = arrows(figure)
    # row 1, column 2 of 8 pixels: (20, 12); steps 3 and 1 have their middles between two frames
    assert arrow.xy1 == pytest.approx((20, 12))
    assert figure.axes.index(arrow.axesA) == 7
    assert arrow.xy2 == pytest.approx((24, 8))
    assert figure.axes.index(arrow.axesB) == 3


def test_a_known_network_is_drawn_to_the_half_pixel():
    found = nl.look(BrightestPlace(), clip_with_a_pixel(*PIXEL), at=(2, 22, 4))
    figure = draw_figure(found.frames, found.attention)
    (arrow,) = arrows(figure)
    assert arrow.xy2 == pytest.approx((CENTER[2], CENTER[1]))
    assert figure.axes.index(arrow.axesB) == PIXEL[0]
    # pixel (22, 4) belongs to column 10 or 11, centerd on pixels 21 and 23: the later one is nearer
    # to its middle, 22.5; row 2 at 5.5 is as near to 4.5 as row 1 at 3.5: the later one
    assert arrow.xy1 == pytest.approx((23.5, 5.5))
    frame = next(patch for patch in figure.axes[2].patches if isinstance(patch, Rectangle))
    assert (frame.get_x(), frame.get_y()) == (22.5, 4.5)
    assert (frame.get_width(), frame.get_height()) == (2, 2)
    lit = figure.axes[PIXEL[0]].images[0].get_array()
    (top, bottom), (left, right) = CELL
    red = np.zeros((19, 25), bool)
    red[int(top) : int(bottom), int(left) : int(right)] = True
    assert (np.asarray(lit)[..., 0] > 0).tolist() == red.tolist()


def test_as_many_arrows_as_asked_for_and_none_for_faint_keys():
    weights = torch.zeros(4, 2, 2)
    weights[:3, 0] = 1 + torch.rand(3, 2)
    assert len(arrows(draw_figure(FRAMES, attention(weights), top=5))) == 5
    assert len(arrows(draw_figure(FRAMES, attention(weights)))) == 6  # no more than have light
    weights[0, 0, 0] = 1000
    assert len(arrows(draw_figure(FRAMES, attention(weights), top=5))) == 1


def test_shares_of_the_moments_add_up():
    figure = draw_figure(FRAMES, attention(torch.rand(4, 2, 2)))
    texts = [axis.get_xlabel() for axis in frames_of(figure)]
    shares = [int(text.split(" · ")[1].rstrip("%")) for text in texts if "·" in text]
    assert len(shares) == 4  # a moment's frames have its share once
    assert sum(shares) == pytest.approx(100, abs=2)  # each is rounded


@pytest.mark.parametrize(
    ("style", "arrow_count", "lit"), [("arrows", 3, False), ("heat", 0, True), ("both", 3, True)]
)
def test_styles(style, arrow_count, lit):
    weights = torch.zeros(4, 2, 2)
    weights[:, 0, 0] = torch.rand(4) + 1
    figure = draw_figure(FRAMES, attention(weights), top=3, style=style)
    assert len(arrows(figure)) == arrow_count
    plain = all((axis.images[0].get_array() == 200).all() for axis in frames_of(figure))
    assert plain != lit


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("style", ["arrows", "heat", "both"])
def test_an_even_row_is_said_to_be_even(pairwise, style):
    figure = draw_figure(
        FRAMES, attention(torch.full((4, 2, 2), 1 / 16), pairwise=pairwise), style=style
    )
    assert arrows(figure) == []
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == 8  # no bar
    assert all((axis.images[0].get_array() == 200).all() for axis in shown)
    said = " ".join(text.get_text() for text in figure.texts)
    assert "all 16 places get about the same: there is nothing to see" in said
    assert ("add up to 1" in said) == (pairwise != "embedded_gaussian")


def test_signs_have_colors_and_the_bar_says_what_they_are():
    weights = torch.zeros(4, 2, 2)
    weights[1, 0, 1], weights[2, 1, 0] = 0.5, -0.25
    figure = draw_figure(FRAMES, attention(weights, pairwise="dot_product"))
    ends = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    # shares of |weight| are 2/3 and 1/3, an even one 1/16
    assert ends == ["10.7 x", "even", "10.7 x"]
    positive, negative = arrows(figure)
    assert positive.get_edgecolor()[0] > positive.get_edgecolor()[2]  # amber
    assert negative.get_edgecolor()[2] > negative.get_edgecolor()[0]  # blue
    said = " ".join(text.get_text() for text in figure.texts)
    assert "attention relative to an even share (6.25%) · blue: negative weights" in said


def test_many_frames_take_rows_and_some_are_shown_the_querys_among_them():
    frames = torch.zeros(128, 3, 8, 8, dtype=torch.uint8)
    grid = (Axis(2, 4, 32), Axis(4, 8, 1), Axis(4, 8, 1))
    one = Attention("b", (19, 0, 0), grid, grid, torch.rand(32, 1, 1), "gaussian", (128, 8, 8))
    figure = draw_figure(frames, one)
    shown = [int(axis.get_xlabel().split()[1]) for axis in frames_of(figure)]
    assert len(shown) == 32
    assert 19 * 4 + 2 in shown  # its middle lies at frame 78
    assert pixels(figure).shape[0] > 0


def test_an_image_has_one_frame_and_no_times():
    torch.manual_seed(0)  # an even row would have no bar
    grid = (Axis(4, 8, 4), Axis(4, 8, 4))
    one = Attention("b", (1, 2), grid, grid, torch.rand(4, 4), "concatenation", (32, 32))
    figure = draw_figure(FRAMES[:1], one, top=2)
    (axis,) = frames_of(figure)
    assert axis.get_xlabel() == ""
    assert len(arrows(figure)) == 2


def test_an_unknown_style():
    with pytest.raises(ValueError, match="style must be one of"):
        draw_figure(FRAMES, attention(torch.rand(4, 2, 2)), style="color")


def test_words_stay_in_the_picture():
    weights = torch.full((4, 2, 2), -0.00034)
    weights[0, 1, 0] = -12345.678
    for frames in (FRAMES, FRAMES[:1]):
        figure = draw_figure(
            frames,
            attention(weights, query=(0, 1, 2), pairwise="dot_product"),
            title="a line\n"
            + "a file · a class (99%) · roi_heads.keypoint_head.15.non_local · " * 3,
        )
        width, height = pixels(figure).shape[1::-1]
        assert figure.texts[0].get_text().startswith("a line\na file")
        for text in (*figure.texts, *figure.axes[-1].get_xticklabels()):
            box = text.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= width
            assert 0 <= box.y0 < box.y1 <= height
        assert figure.texts[0].get_window_extent().y0 >= figure.axes[0].get_window_extent().y1
