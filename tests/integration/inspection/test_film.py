import numpy as np

import nonlocalnet as nl
from looking import PIXEL, BrightestPlace, clip_with_a_pixel
from nonlocalnet.data.video.reader import decode_all, probe
from nonlocalnet.inspection.film import FOOT, GAP, SHORT_SIDE


def test_the_film_runs_on_the_right_and_is_lit_where_the_point_looks(tmp_path):
    found = nl.look(BrightestPlace(), clip_with_a_pixel(*PIXEL), at=(0, 3, 3))
    path = found.save(tmp_path / "look.mp4", fps=5)
    about = probe(path)
    scale = SHORT_SIDE / 19
    width = round(25 * scale)
    # even sizes, as the format needs
    assert (about.height, about.width) == (SHORT_SIDE + FOOT, 2 * width + GAP + width % 1)
    assert about.fps == 5
    assert about.num_frames == 3 * 10  # six seconds of three frames
    film = decode_all(path).float().numpy()
    y, x = (np.array(PIXEL[1:]) + 0.5) * scale
    right = film[:3, 0, int(y), int(width + GAP + x) - 20]
    assert right[PIXEL[0]] > right[0] + 50
    assert right[PIXEL[0]] > right[2] + 50
    still = film[:3, :, :SHORT_SIDE, :width]
    assert np.abs(still - still[:1]).max() < 12  # but for compression, it stands
