import pytest

from nonlocalnet.data.paths import expand_paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """a.mp4, b.mp4, inner/c.avi, notes.md, and a list of two of them and one that is gone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips/inner").mkdir(parents=True)
    for name in ("a.mp4", "b.mp4", "inner/c.avi", "notes.md"):
        (tmp_path / "clips" / name).touch()
    (tmp_path / "clips/list.txt").write_text("inner/c.avi\n\ngone.mp4\nb.mp4\n")
    return tmp_path


def expand(folder, *names):
    found, notes = expand_paths([folder / name for name in names])
    return [str(path.relative_to(folder)) for path in found], notes


def test_what_a_path_names(folder):
    assert expand(folder, "x.mp4", "clips/b.mp4")[0] == ["x.mp4", "clips/b.mp4"]
    found, notes = expand(folder, "clips")
    assert sorted(found) == ["clips/a.mp4", "clips/b.mp4", "clips/inner/c.avi"]
    assert len(notes) == 1
    assert "2 files are no videos: list.txt, notes.md" in notes[0]
    lines = ["clips/inner/c.avi", "clips/gone.mp4", "clips/b.mp4"]
    assert expand(folder, "clips/list.txt") == (lines, [])
    assert expand(folder, "clips/*.mp4")[0] == ["clips/a.mp4", "clips/b.mp4"]
    assert expand(folder, "clips/**/*.avi")[0] == ["clips/inner/c.avi"]
    assert expand(folder, "clips/i*")[0] == ["clips/inner/c.avi"]


def test_each_video_comes_once_in_the_given_order(folder):
    found, _ = expand(folder, "clips/b.mp4", "clips/list.txt", "clips/*", "clips/inner/../a.mp4")
    assert found == ["clips/b.mp4", "clips/inner/c.avi", "clips/gone.mp4", "clips/a.mp4"]


def test_a_file_whose_name_looks_like_a_pattern(folder):
    (folder / "clip[1].mp4").touch()
    assert expand(folder, "clip[1].mp4")[0] == ["clip[1].mp4"]


def test_folders_of_pictures_and_folders_without_videos_are_left_to_the_reader(folder):
    (folder / "frames").mkdir()
    for i in (1, 2, 3):
        (folder / f"frames/{i:03}.jpg").touch()
    (folder / "empty").mkdir()
    assert expand(folder, "frames", "empty")[0] == ["frames", "empty"]


def test_lists_with_labels_are_lists_of_videos(folder):
    (folder / "f/one two").mkdir(parents=True)
    (folder / "clips/d 5.mp4").touch()
    lines = [
        "clips/a.mp4 -",
        "clips/b.mp4 0",
        "clips/d 5.mp4",
        "clips/inner/c.avi 1,5",
        "x y.mp4 7",
    ]
    (folder / "l.txt").write_text("\n".join([*lines, "f/one two 29 1"]))
    paths = ["clips/a.mp4", "clips/b.mp4", "clips/d 5.mp4", "clips/inner/c.avi", "x y.mp4"]
    assert expand(folder, "l.txt")[0] == [*paths, "f/one two"]
    (folder / "l.csv").write_text("label,path\n3,clips/a.mp4\n,clips/d 5.mp4\n")
    assert expand(folder, "l.csv")[0] == ["clips/a.mp4", "clips/d 5.mp4"]


def test_a_list_or_pattern_without_videos_is_an_error(folder):
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.txt is an empty list"):
        expand(folder, "empty.txt")
    with pytest.raises(ValueError, match="no video or folder matches"):
        expand(folder, "clips/*.md")
