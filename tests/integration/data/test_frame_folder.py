"""Folders of numbered pictures are videos like any other; Pillow writes and judges them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.check import check_dataset, check_file
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.resize import resize_dataset
from nonlocalnet.data.transforms import TestTransform
from nonlocalnet.data.video.reader import VideoError, decode, decode_all, open_reader, probe


def save(folder: Path, frames: np.ndarray, name: str = "{:05d}.png", first: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames, first):
        Image.fromarray(frame).save(folder / name.format(i))
    return folder


@pytest.mark.parametrize("name", ["{}.png", "img_{:05d}.png", "ID-7-{:06d}.PNG", "{:04d}.bmp"])
@pytest.mark.parametrize("first", [0, 1, 7])
def test_every_frame_is_its_picture(tmp_path, moving, name, first):
    # 12 pictures: 10.png comes after 9.png; noise beside them is no picture
    folder = save(tmp_path / "v", moving[:12], name, first)
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / ".00001.png").write_bytes(b"x")
    indices = [11, 0, 5, 5, 9]
    found = decode(folder, indices)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1), moving[indices])
    about = probe(folder)
    assert (about.num_frames, about.height, about.width) == (12, 48, 64)
    assert about.duration == pytest.approx(12 / about.fps)
    assert decode(folder, [3], short_side=24).shape == (1, 3, 24, 32)


def test_jpeg_with_and_without_color(tmp_path):
    # smooth pictures: decoders differ in how they spread chroma over edges
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    colors = np.stack([np.tile(ramp, (48, 1)), np.full((48, 64), 90), np.tile(ramp[::-1], (48, 1))])
    image = Image.fromarray(colors.transpose(1, 2, 0).astype(np.uint8))
    folder = tmp_path / "v"
    folder.mkdir()
    turned = Image.Exif()
    turned[0x112] = 6  # as a phone's photograph; frames are shown as they are stored
    image.save(folder / "1.jpg", quality=95)
    image.save(folder / "2.jpg", quality=95, progressive=True)
    image.convert("L").save(folder / "3.jpg", quality=95)
    image.save(folder / "4.jpg", quality=95, exif=turned)
    for i, frame in enumerate(decode_all(folder), 1):
        expected = np.asarray(Image.open(folder / f"{i}.jpg").convert("RGB")).astype(int)
        assert np.abs(frame.permute(1, 2, 0).numpy() - expected).max() <= 8


def test_what_is_wrong_is_said(tmp_path, moving):
    folder = save(tmp_path / "v", moving[:4])
    with pytest.raises(VideoError, match="frame 4 is out of range, the folder has 4 frames"):
        decode(folder, [4])
    Image.fromarray(moving[0][:40]).save(folder / "00002.png")
    assert decode(folder, [2, 3]).shape[0] == 2
    with pytest.raises(VideoError, match=r"00002\.png is 64x40, 00001\.png is 64x48: .* one size"):
        decode(folder, [0, 1])
    whole = (folder / "00003.png").read_bytes()
    for content, reason in (
        (whole[: len(whole) // 2], "readable"),
        (b"", "empty"),
        (b"x", "not a"),
    ):
        (folder / "00003.png").write_bytes(content)
        with pytest.raises(VideoError, match=rf"00003\.png: .*{reason}"):
            decode(folder, [2])
    (folder / "00003.png").unlink()
    (folder / "00003.png").symlink_to(folder / "nothing")
    with pytest.raises(VideoError, match=r"00003\.png: cannot be read"):
        decode(folder, [2])


def test_half_a_jpeg_is_no_frame(tmp_path, moving):
    folder = save(tmp_path / "v", moving[:3], "{}.jpg")
    data = (folder / "2.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"2\.jpg: not a readable picture"):
        decode_all(folder)
    assert "2.jpg" in check_file(folder).error


def test_folders_that_are_no_video(tmp_path, moving):
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match=r"empty: is a directory, and holds no numbered pictures"):
        open_reader(tmp_path / "empty")
    folder = save(tmp_path / "two", moving[:3], "left_{}.png")
    save(folder, moving[:3], "right_{}.png")
    with pytest.raises(VideoError, match=r"several series.*left_1\.png, .* right_N\.png"):
        open_reader(folder)
    folder = save(tmp_path / "twice", moving[:3], "{}.png")
    save(folder, moving[:1], "{:02d}.png")
    with pytest.raises(VideoError, match="several pictures with the number 1"):
        open_reader(folder)
    folder = save(tmp_path / "one", moving[:1], "{}.png")
    assert open_reader(folder).num_frames == 1  # whoever asks for it means it


def test_names_are_no_patterns(tmp_path, moving):
    # %d in a name is FFmpeg's own way to name a series
    folder = save(tmp_path / "v%03d", moving[:3], "a%d_{}.png")
    np.testing.assert_array_equal(decode_all(folder).permute(0, 2, 3, 1), moving[:3])


@pytest.fixture
def rawframes(tmp_path, moving) -> Path:
    """Two classes of folders of frames, a list as MMAction2's, flow beside some frames."""
    root = tmp_path / "rawframes"
    for k, name in enumerate(("a/one two", "a/x.1", "b/z")):
        save(root / name, moving[k : k + 8], "img_{:05d}.png")
    save(root / "a/x.1", moving[:8], "flow_x_{:05d}.png")
    (tmp_path / "train.txt").write_text("a/one two 8 0\nb/z 8 1\n")
    (tmp_path / "val.txt").write_text("a/x.1 8 0\n")
    return root


def test_lists_and_class_folders_of_frames(rawframes, moving):
    listed = read_dataset(rawframes.parent, root=rawframes)
    assert [(r.path, r.labels, r.num_frames) for r in listed.train] == [
        (rawframes / "a/one two", (0,), 8),
        (rawframes / "b/z", (1,), 8),
    ]
    assert [r.path for r in listed.val or []] == [rawframes / "a/x.1"]
    data = read_dataset(rawframes)
    assert [(r.name, r.labels) for r in data.train] == [
        ("a/one two", (0,)),
        ("a/x.1", (0,)),
        ("b/z", (1,)),
    ]
    assert data.notes == (
        "3 folders of numbered pictures are read as videos: a/one two, a/x.1, b/z",
    )
    for cache in (False, True):
        videos = VideoDataset(
            data.train, 2, ClipSpec(2, 3), TestTransform(48, 48), train=False, cache=cache
        )
        clip, target, _ = videos[2]
        # the middle of 8 frames for a span of 6: frames 1 and 4 of the third video
        expected = moving[[3, 6]][:, :, 8:56].transpose(3, 0, 1, 2)
        np.testing.assert_array_equal(clip[0], expected)
        assert target == 1


def test_the_check_tells_gaps_counts_and_copies(rawframes, moving):
    (rawframes / "b/z/img_00003.png").unlink()
    save(rawframes / "a/copy", moving[:8], "{}.png")
    (rawframes.parent / "train.txt").write_text("a/one two 8 0\na/copy 8 0\nb/z 8 1\n")
    report = check_dataset(read_dataset(rawframes.parent, root=rawframes), folder=rawframes)
    found = {(f.kind, Path(f.path).name, f.text) for f in report.findings}
    assert ("frames", "z", "1 number is missing between its frames: 3") in found
    assert ("frames", "z", "its list says 8 frames, 7 are there, and used") in found
    assert ("duplicate", "copy") in {(kind, name) for kind, name, _ in found}
    assert {kind for kind, _, _ in found} == {"frames", "duplicate"}
    assert report.files[str(rawframes / "b/z")].frames == 7


def test_resize_makes_videos_of_them(rawframes, tmp_path, moving):
    report = resize_dataset(rawframes, tmp_path / "small", short_side=24, crf=0)
    assert (report.written, report.bad) == (3, [])
    assert {
        p.relative_to(tmp_path / "small").as_posix() for p in (tmp_path / "small").rglob("*.mp4")
    } == {
        "a/one two.mp4",
        "a/x.1.mp4",
        "b/z.mp4",
    }
    # the lists with numbers of frames find them
    data = read_dataset(tmp_path, root=tmp_path / "small")
    assert [r.path.name for r in data.train] == ["one two.mp4", "z.mp4"]
    assert not any("frames" in note for note in data.notes)
    small = tmp_path / "small/list.txt"
    small.write_text("a/one two 3 1\nb/z 5 0\n")  # two labels?
    (note,) = (note for note in read_dataset(small).notes if "frames" in note)
    assert note.startswith("a/one two has 8 frames, its line says 3")
    small.write_text("a/one two.mp4 8 1\nb/z.mp4 8 0\n")
    with pytest.raises(ValueError, match=r"list.txt:1: 8 in .* is the number of frames"):
        read_dataset(small)
    small.write_text("a/one two.mp4 1 8\nb/z.mp4 0 1\n")
    assert [r.labels for r in read_dataset(small).train] == [(1, 8), (0, 1)]
    frames = decode_all(data.train[1].path)
    assert frames.shape == (8, 3, 24, 32)
    expected = decode_all(rawframes / "b/z", short_side=24).float()
    assert (frames.float() - expected).abs().mean() < 12  # chroma at half the size
    assert resize_dataset(rawframes, tmp_path / "small", short_side=24, crf=0).skipped == 3
