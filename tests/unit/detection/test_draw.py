import json

import pytest
import torch

pytest.importorskip("matplotlib")
from nonlocalnet.detection.draw import SKELETON, SMALLEST, draw_objects

GRAY = torch.full((3, 480, 640), 90, dtype=torch.uint8)


def changed(drawn, image=GRAY):
    return (drawn != image).any(0)


def test_the_skeleton_is_the_annotations_own(shared):
    content = json.loads((shared / "data/coco/person_keypoints_val.json").read_text())
    (person,) = content["categories"]
    assert [(a - 1, b - 1) for a, b in person["skeleton"]] == SKELETON


def test_a_box_is_drawn_at_its_place():
    drawn = draw_objects(GRAY, torch.tensor([[100.0, 200, 300, 400]]), ["cat"])
    rows, columns = changed(drawn).nonzero().T
    assert (rows.max(), columns.min(), columns.max()) == (400, 100, 300)
    assert changed(drawn)[200, 150:301].all()
    assert not changed(drawn)[:200, 150:].any()  # above is the name alone
    assert not changed(drawn)[210:390, 110:290].any()


def test_a_box_on_the_border_is_seen_on_all_sides():
    at = changed(draw_objects(GRAY, torch.tensor([[0.0, 0, 640, 480]]), [""]))
    assert at[0].all()
    assert at[-1].all()
    assert at[:, 0].all()
    assert at[:, -1].all()


@pytest.mark.parametrize("place", [(0, 0), (639, 0), (0, 479), (639, 479), (639, 5), (3, 240)])
def test_names_are_never_cut_off(place):
    def letters(x, y):  # of a box that is a dot
        box = torch.tensor([[x, y, x, y]], dtype=torch.float32)
        return changed(draw_objects(GRAY, box, ["broccoli 0.99"])).sum()

    assert abs(letters(*place) - letters(320, 240)) < 10  # the dot is 9, a column of the name more


def test_a_name_longer_than_the_image_is_written_smaller():
    narrow = torch.full((3, 640, 60), 90, dtype=torch.uint8)
    drawn = draw_objects(narrow, torch.tensor([[0.0, 100, 0, 100]]), ["a very long name 0.99"])
    columns = changed(drawn, narrow).nonzero()[:, 1]
    assert 50 < columns.max() < 60


def test_masks_are_tinted_the_smaller_on_top():
    masks = torch.zeros(2, 480, 640, dtype=torch.bool)
    masks[0, 100:300, 100:300] = masks[1, 200:250, 200:350] = True
    off = torch.tensor([[0.0, 0, 0, 0]] * 2)
    drawn = draw_objects(GRAY, off, ["", ""], masks=masks)
    assert torch.equal(changed(drawn)[50:], masks.any(0)[50:])
    assert (drawn[:, 150, 150] != drawn[:, 220, 320]).any()
    assert torch.equal(drawn[:, 220, 220], drawn[:, 220, 320])  # where both are
    assert (drawn.amax(0) >= 90).all()  # torchvision alone would make it black


def test_skeletons_have_sure_points_alone():
    points = torch.full((1, 17, 3), -10.0)
    points[0, 5] = torch.tensor([200.0, 200, 9])  # shoulder, elbow, wrist
    points[0, 7] = torch.tensor([300.0, 200, 9])
    points[0, 9] = torch.tensor([400.0, 200, 1.9])
    at = changed(draw_objects(GRAY, torch.zeros(1, 4), [""], keypoints=points))
    assert at[200, 200:301].all()
    assert not at[100:, 320:].any()


def test_small_images_are_enlarged_to_be_read():
    small = torch.arange(3 * 6 * 8, dtype=torch.uint8).view(3, 6, 8)
    drawn = draw_objects(small, torch.zeros(0, 4), [])
    assert drawn.shape == (3, 360, SMALLEST)
    assert torch.equal(drawn[:, ::60, ::60], small)
    mask = torch.zeros(1, 6, 8, dtype=torch.bool)
    mask[0, 2, 3] = True
    with_mask = draw_objects(small, torch.tensor([[3.0, 2, 4, 3]]), ["x"], masks=mask)
    rows, columns = changed(with_mask, drawn)[120:].nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 60, 180, 240)


def test_objects_have_colors_of_their_own():
    boxes = torch.tensor([[30.0 * i, 100, 30 * i + 20, 120] for i in range(20)])
    drawn = draw_objects(GRAY, boxes, [""] * 20)
    colors = {tuple(drawn[:, 110, 30 * i].tolist()) for i in range(20)}
    assert len(colors) == 20
