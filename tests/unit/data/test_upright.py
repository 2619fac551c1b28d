"""Images as people see them, whatever their files hold."""

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image

from nonlocalnet.detection.annotations import CocoError, read_image

GRAY = [[0, 100], [200, 255]]


def seen(path):
    image = read_image(path, upright=True)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.uint8(GRAY)),
        Image.fromarray(np.uint16(GRAY) * 257),
        Image.fromarray(np.uint8(GRAY)).convert("LA"),
        Image.fromarray(np.uint8(GRAY)).convert("P"),
        Image.fromarray(np.uint8(GRAY)).convert("RGBA"),
    ],
    ids=["gray", "16 bits", "gray with alpha", "palette", "color with alpha"],
)
def test_kinds_of_pixels(image, tmp_path):
    image.save(tmp_path / "a.png")
    assert (seen(tmp_path / "a.png") == np.uint8(GRAY)[..., None]).all()


def test_16_bits_in_tiff(tmp_path):
    Image.fromarray(np.uint16(GRAY) * 257).save(tmp_path / "a.tif")
    assert (seen(tmp_path / "a.tif") == np.uint8(GRAY)[..., None]).all()


def test_what_is_transparent_is_white(tmp_path):
    pixels = np.uint8([[[9, 9, 9, 255], [9, 9, 9, 0]]])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert seen(tmp_path / "a.png").tolist() == [[[9, 9, 9], [255, 255, 255]]]
    palette = Image.fromarray(np.uint8([[0, 1]]), mode="P")
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.save(tmp_path / "b.png", transparency=1)
    assert seen(tmp_path / "b.png").tolist() == [[[9, 9, 9], [255, 255, 255]]]


# what EXIF's orientation says of the file's first row and first column (EXIF 2.3, 4.6.4)
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.T),
        (6, lambda a: a.T[:, ::-1]),
        (7, lambda a: a.T[::-1, ::-1]),
        (8, lambda a: a.T[::-1]),
    ],
)
def test_it_is_turned_as_the_camera_says(orientation, turn, tmp_path):
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    assert (seen(tmp_path / "a.png")[..., 0] == turn(stored)).all()
    # COCO's annotations are of the file's pixels as they lie
    assert (np.asarray(read_image(tmp_path / "a.png"))[..., 0] == stored).all()


def test_a_missing_file_has_nothing_to_do_with_annotations(tmp_path):
    with pytest.raises(CocoError, match=r"no such image$"):
        read_image(tmp_path / "a.png", upright=True)
