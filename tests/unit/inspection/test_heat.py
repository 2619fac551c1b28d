import dataclasses

import numpy as np
import pytest
import torch

import nonlocalnet as nl
from looking import CELL, PIXEL, BrightestPlace, clip_with_a_pixel
from nonlocalnet.inspection.heat import DIM, NEGATIVE, POSITIVE, TINT, heat_of, paint


def test_light_falls_on_the_pixels_of_the_key_and_on_no_other():
    found = nl.look(BrightestPlace(), clip_with_a_pixel(*PIXEL), at=(0, 3, 3))
    heat = heat_of(found.attention, found.frames)
    expected = np.zeros_like(heat)
    (top, bottom), (left, right) = CELL
    # pixels whose middles lie in the cell: 8.5 <= p + 0.5 < 12.5
    expected[PIXEL[0], int(top) : int(bottom), int(left) : int(right)] = 1
    np.testing.assert_array_equal(heat, expected)


def test_what_pooling_leaves_out_is_dark():
    found = nl.look(BrightestPlace(), clip_with_a_pixel(*PIXEL), at=(0, 3, 3))
    weights = torch.zeros_like(found.attention.weights)
    weights[:, -1, :] = weights[:, :, -1] = 1
    heat = heat_of(dataclasses.replace(found.attention, weights=weights), found.frames)
    # 9 rows of positions make 4 keys, from 0.5 to 16.5; 12 columns make 6, to 24.5
    expected = np.zeros((3, 19, 25), np.float32)
    expected[:, 12:16, :24] = expected[:, :16, 20:24] = 1
    np.testing.assert_array_equal(heat, expected)


def test_light_is_what_is_beyond_an_even_share():
    found = nl.look(BrightestPlace(), clip_with_a_pixel(*PIXEL), at=(0, 3, 3))
    weights = torch.full((3, 4, 6), 0.01)
    weights[0, 0, 0], weights[2, 0, 0] = 0.16, 0.13  # the sum is 0.99, an even share 0.01375
    heat = heat_of(dataclasses.replace(found.attention, weights=weights), found.frames)
    assert heat[0, 1, 1] == 1
    assert heat[2, 1, 1] == pytest.approx((0.13 - 0.01375) / (0.16 - 0.01375), rel=1e-5)
    assert (heat > 0).sum() == 2 * 16
    even = heat_of(dataclasses.replace(found.attention, weights=weights * 0 + 0.01), found.frames)
    assert not even.any()


def test_paint_by_arithmetic():
    frame = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1).expand(3, 1, 3)
    picture = paint(frame, np.array([[0, 1, -0.5]], np.float32))
    plain = np.array([200.0, 100, 50])
    assert picture[0, 0].tolist() == (plain * DIM).round().tolist()
    assert picture[0, 1].tolist() == (plain + (np.array(POSITIVE) - plain) * TINT).round().tolist()
    lit = plain * (DIM + (1 - DIM) * 0.5)
    expected = (lit + (np.array(NEGATIVE) - lit) * TINT * 0.5).round()
    assert picture[0, 2].tolist() == expected.tolist()
