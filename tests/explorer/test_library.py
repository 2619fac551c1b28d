import pytest

from nonlocalnet.data.decode import VideoError
from nonlocalnet.explorer.library import KEPT, Unknown, videos_of

pytestmark = pytest.mark.xdist_group("explorer")


def test_a_look_is_kept_and_the_oldest_is_forgotten(library):
    first = library.look("v0", "net", 0.0)
    assert library.look("v0", "net", 0.0) is first
    for i in range(KEPT):
        library.look("v0", "net", (i + 1) / 10)
    assert library.look("v0", "net", 0.0) is not first


def test_what_is_not_there(library, tmp_path):
    with pytest.raises(Unknown, match="choose or drop it again"):
        library.look("gone", "net", 0.5)
    with pytest.raises(Unknown, match="choose another"):
        library.look("v0", "gone", 0.5)
    bad = library.new_file()
    bad.write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"^mine\.mp4: not a readable video") as caught:
        library.add(bad, "mine.mp4")
    assert str(library.store) not in str(caught.value)
    assert not bad.exists()


def test_videos_of_a_file_and_of_folders(tmp_path, video):
    assert videos_of(None) == []
    assert videos_of(video) == [video]
    assert videos_of(video.parent) == [video]
    with pytest.raises(FileNotFoundError, match="no video or folder"):
        videos_of(tmp_path / "gone")
    with pytest.raises(ValueError, match="has no videos"):
        videos_of(tmp_path)
