"""What lies in a folder: all of it is read or named."""

from __future__ import annotations

import io
import os
from pathlib import Path

import av
import pytest

from nonlocalnet.data import find_videos as module
from nonlocalnet.data.find_videos import find_listed, find_videos, printable
from nonlocalnet.data.suffixes import SUFFIXES

# of muxers that write pictures, sound or something else into files of these names
NOT_VIDEOS = """
A64 a64 afc aif aifc aiff avif fits flac ico isma m4a m4b mp3 mpd m3u8 ra webp wma rgb yuv bmp dpx
exr hdr im1 im24 im8 j2c j2k jls jp2 jpeg jpg jxl jxs ljpg pam pbm pcx pfm pgm pgmyuv phm pix png
ppm qoi ras rs sgi sun sunras tga tif tiff vbn wbmp xbm xface xwd y
"""


def fill(root: Path, **files: bytes) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_every_suffix_that_ffmpeg_gives_a_video_is_known():
    known = {*NOT_VIDEOS.split(), *(suffix[1:] for suffix in SUFFIXES)}
    unknown = set()
    for name in av.formats_available:
        try:
            suffixes = av.ContainerFormat(name, "w").extensions
            with av.open(io.BytesIO(), "w", format=name) as file:
                codec = file.default_video_codec
        except (ValueError, OSError, av.FFmpegError):
            continue  # reads alone, or needs a device
        if codec != "none":
            unknown |= {suffix.strip() for suffix in suffixes} - known
    assert unknown == set()


def test_all_is_read_or_named(tmp_path):
    root = tmp_path / "data"
    stream = b"\x47\x40\x00\x10" + bytes(184)
    fill(
        root,
        **{
            "b/x.MP4": b"",
            "b/deep/y.ts": stream,
            "b/app.ts": b"const a: number = 1;\n",
            "b/song.ogg": b"OggS" + bytes(20) + b"\x01vorbis",
            "b/film.ogg": b"OggS" + bytes(20) + b"\x80theora",
            "b/photo.jpg": b"",
            "b/a.srt": b"",
            "b/a.mp4.part": b"",
            "b/Thumbs.db": b"",
            "b/._x.mp4": b"",
            "b/.ipynb_checkpoints/x-checkpoint.mp4": b"",
        },
    )
    elsewhere = tmp_path / "elsewhere"
    fill(elsewhere, **{"z.webm": b""})
    (root / "c").symlink_to(elsewhere)
    (root / "b/up").symlink_to(root)
    (root / "b/gone.mp4").symlink_to(root / "nothing.mp4")
    os.mkfifo(root / "b/pipe.ts")
    found = find_videos(root)
    assert names(found.videos, root) == ["b/film.ogg", "b/x.MP4", "b/deep/y.ts", "c/z.webm"]
    assert found.notes() == [
        "7 files are no videos: b/Thumbs.db, b/a.mp4.part, b/a.srt and 4 more",
        "2 hidden files or folders are left out: b/._x.mp4, b/.ipynb_checkpoints",
        "1 folder is reached through a link, and read: c",
        "2 links lead nowhere or to a folder around it, and are left out: b/gone.mp4, b/up",
    ]
    assert "b/pipe.ts" in names(found.ignored, root)


def test_two_links_to_one_folder_are_two_places(tmp_path):
    # splits are often made of links: neither may vanish because the other was there first
    fill(tmp_path, **{"all/x.mp4": b""})
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").symlink_to(tmp_path / "all")
    assert names(find_videos(tmp_path).videos, tmp_path) == [
        "all/x.mp4",
        "train/a/x.mp4",
        "val/a/x.mp4",
    ]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    fill(tmp_path, **{"a/x.mp4": b"", "b/y.mp4": b""})
    scandir = os.scandir

    def closed(folder):
        if Path(folder).name == "a":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(module.os, "scandir", closed)
    found = find_videos(tmp_path)
    assert names(found.videos, tmp_path) == ["b/y.mp4"]
    assert found.notes() == ["1 folder cannot be read, because of a permission or an error: a"]
    with pytest.raises(PermissionError):
        find_videos(tmp_path / "a")


def test_names_of_any_bytes_are_shown_harmlessly(tmp_path):
    name = os.fsdecode(b"caf\xe9\x1b[2J\n.doc")
    (tmp_path / name).touch()
    (note,) = find_videos(tmp_path).notes()
    assert note == "1 file is no video: caf\\udce9\\x1b[2J\\n.doc"
    assert printable("plain ünï") == "plain ünï"


def test_the_usual_suffix_wins(tmp_path):
    # a preview beside a video, which is listed without its suffix, or with another
    fill(tmp_path, **{"a.gif": b"", "a.mp4": b"", "b.gif": b"", "sub.1/00001.jpg": b""})
    fill(tmp_path, **{"sub.1/00002.jpg": b""})
    asked = [tmp_path / name for name in ("a", "a.avi", "a.gif", "b.mp4", "sub.1", "c.mp4")]
    found = find_listed(asked)
    assert [path and path.name for path in found] == [
        "a.mp4",
        "a.mp4",
        "a.gif",
        "b.gif",
        "sub.1",
        None,
    ]
    tree = find_videos(tmp_path)
    assert tree.find("a") == tmp_path / "a.mp4"
    assert tree.find("sub.1") == tmp_path / "sub.1"


@pytest.mark.parametrize(
    ("files", "is_one"),
    [
        (["00001.jpg", "00002.jpg"], True),
        (["img_8.PNG", "img_9.png", "img_10.png"], True),
        (["a-0.jpg", "a-5.jpg", "a-10.jpg", "Thumbs.db", "cover.jpg"], True),  # every fifth
        (["img_1.jpg", "img_2.jpg", "flow_x_1.jpg", "flow_x_2.jpg", "flow_y_1.jpg"], True),
        (["flow_x_1.jpg", "flow_x_2.jpg", "flow_y_1.jpg", "flow_y_2.jpg"], False),
        (["1.jpg", "2.jpg", "video.mp4"], False),  # thumbnails beside a video
        (["1.jpg"], False),
        (["one.jpg", "two.jpg"], False),
        (["000000139.jpg", "000000285.jpg", "000000632.jpg"], False),  # photographs
    ],
)
def test_folders_of_frames(tmp_path, files, is_one):
    fill(tmp_path, **{f"v/{name}": b"" for name in files})
    found = find_videos(tmp_path)
    assert (found.frames == [tmp_path / "v"]) == is_one
    assert (tmp_path / "v" in found.videos) == is_one
    ignored = sum(name in ("Thumbs.db", "cover.jpg") for name in files)
    assert len(found.ignored) == (ignored if is_one else len(files) - ("video.mp4" in files))
