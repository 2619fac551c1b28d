"""Motion JPEG whose pictures say by EXIF how to hold them; Pillow judges."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from nonlocalnet.data.check import check_file
from nonlocalnet.data.resize import resize_video
from nonlocalnet.data.video.reader import VideoError, decode_all, probe

SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:240:48j, 0:240:64j], 90), 2).astype(np.uint8)


def jpeg(orientation: int) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(SMOOTH).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_are_shown_as_their_exif_says(tmp_path, orientation):
    data = jpeg(orientation)
    (tmp_path / "a.mjpeg").write_bytes(data * 3)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).astype(int)
    about = probe(tmp_path / "a.mjpeg")
    assert (about.num_frames, about.height, about.width) == (3, *expected.shape[:2])
    report = check_file(tmp_path / "a.mjpeg")
    assert (report.error, report.frames) == ("", 3)
    assert (report.height, report.width) == expected.shape[:2]
    resize_video(tmp_path / "a.mjpeg", tmp_path / "b.mp4", 64, 1)
    for path in (tmp_path / "a.mjpeg", tmp_path / "b.mp4"):
        for frame in decode_all(path):
            assert np.abs(frame.permute(1, 2, 0).numpy() - expected).max() <= 12


def test_frames_of_two_orientations_are_refused(tmp_path):
    (tmp_path / "a.mjpeg").write_bytes(jpeg(1) + jpeg(6))
    with pytest.raises(VideoError, match="some of its frames are upright and some on their side"):
        decode_all(tmp_path / "a.mjpeg")
