from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from nonlocalnet.data.video.reader import VideoError
from nonlocalnet.data.video.write import write_video
from nonlocalnet.explorer import library as module
from nonlocalnet.explorer.library import NotFound, shown, videos_of


def add(library, data, name="a.mp4"):
    path = library.new_file()
    path.write_bytes(data)
    return library.add(path, name)


def test_a_look_is_kept(library, monkeypatch):
    found = library.look("v0", "tiny", 0.5)
    assert found.title == "squares.mp4"
    assert found.frames.shape == (8, 3, 32, 32)
    assert len(found.analysis.blocks) == 2
    assert library.look("v0", "tiny", 0.5) is found
    for moment in range(module.KEPT):
        library.look("v0", "tiny", moment / 100)
    assert len(library._scenes) == module.KEPT
    assert library.look("v0", "tiny", 0.5) is not found


def test_many_who_ask_for_one_look_get_the_same(library):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(library.look("v0", "tiny", 0.25)))
        for _ in range(9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 9
    assert len(set(map(id, found))) == 1


def test_what_is_not_there_or_makes_no_sense(library):
    with pytest.raises(NotFound, match="this video is no longer available"):
        library.look("v9", "tiny", 0.5)
    with pytest.raises(NotFound, match="there is no such network"):
        library.look("v0", "huge", 0.5)
    for moment in (-0.1, 1.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="moment must be from 0"):
            library.look("v0", "tiny", moment)


def test_an_upload_that_is_no_video_is_deleted(library, tmp_path):
    before = set(library.store.iterdir())
    with pytest.raises(VideoError) as error:
        add(library, b"no video\n" * 99, "film.mp4")
    assert str(error.value).startswith("film.mp4: not a readable video")
    write_video(tmp_path / "strip.mp4", np.zeros((8, 16, 1600, 3), np.uint8))
    with pytest.raises(VideoError, match="1600x16 are too long a strip"):
        add(library, (tmp_path / "strip.mp4").read_bytes())
    assert set(library.store.iterdir()) == before


def test_the_oldest_uploads_make_room(library, video, monkeypatch):
    monkeypatch.setattr(module, "UPLOADS", 2)
    videos = [add(library, video.read_bytes(), f"{i}.mp4") for i in range(4)]
    assert [v.name for v in library.videos()[-2:]] == ["2.mp4", "3.mp4"]
    assert sorted(library.store.iterdir()) == sorted(v.path for v in videos[2:])
    with pytest.raises(NotFound):
        library.look(videos[0].key, "tiny", 0.5)
    assert library.look(videos[3].key, "tiny", 0.5).title == "3.mp4"


def test_a_list_of_other_files_is_no_video(library, video):
    """FFmpeg would read what it names: here another upload."""
    other = add(library, video.read_bytes())
    with pytest.raises(VideoError, match="a list of other files, not a video"):
        add(library, f"ffconcat version 1.0\nfile {other.key}\n".encode())


def test_a_decoding_process_that_dies_or_hangs_loses_one_answer(library, monkeypatch):
    library.look("v0", "tiny", 0.5)
    pid = library._decode(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(VideoError, match=r"^squares\.mp4: its process died \(SIGKILL\)$"):
        library.look("v0", "tiny", 0.77)
    library.look("v0", "tiny", 0.77)
    os.kill(library._decode(os.getpid), signal.SIGSTOP)
    monkeypatch.setattr(library._decode, "time_limit", 0.3)
    begin = time.monotonic()
    with pytest.raises(VideoError, match=r"^squares\.mp4: took longer than 0\.3 s$"):
        library.look("v0", "tiny", 0.78)
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\one.mp4", "one.mp4"),
        ("a\x00b\r\nc.mp4", "abc.mp4"),
        ("\u202egpj.4pm", "gpj.4pm"),
        ("<img src=x onerror=y>", "<img src=x onerror=y>"),  # the page sets it as text
        ("x" * 10_000, "x" * 120),
        ("", "video"),
        ("\n/\x00", "video"),
        ("\udce9.mp4", ".mp4"),
    ],
)
def test_names_that_are_shown(name, said):
    assert shown(name) == said


def test_videos_of_a_file_a_folder_and_neither(video, tmp_path):
    assert videos_of(None) == []
    assert videos_of(video) == [video]
    assert video in videos_of(video.parent)
    with pytest.raises(ValueError, match="has no videos"):
        videos_of(tmp_path)
    with pytest.raises(FileNotFoundError, match="no video or folder"):
        videos_of(tmp_path / "none")
