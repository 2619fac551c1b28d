"""Weights by file or by name."""

from pathlib import Path

import pytest

from nonlocalnet.checkpoints import zoo
from nonlocalnet.runtime import log


@pytest.fixture
def got(monkeypatch):
    """Names that `get` was asked for; it reports as a download of three MiB does."""
    names = []

    def get(name, on_progress, **where):
        names.append((name, where))
        for done in (0, 1 << 20, 3 << 20):
            on_progress(done, 3 << 20)
        return Path("cache") / name

    monkeypatch.setattr(zoo, "get", get)
    return names


def test_a_file_is_itself_even_with_the_name_of_a_release(tmp_path, monkeypatch, got):
    monkeypatch.chdir(tmp_path)
    Path("I3D_8x8_R50").touch()
    assert zoo.find_weights("I3D_8x8_R50") == Path("I3D_8x8_R50")
    assert got == []


def test_a_release_is_got_and_anything_else_stays_a_path(tmp_path, monkeypatch, got):
    monkeypatch.chdir(tmp_path)
    assert zoo.find_weights("I3D_8x8_R50") == Path("cache/I3D_8x8_R50")
    assert got == [("I3D_8x8_R50", {})]
    assert zoo.find_weights(Path("some/file.pkl")) == Path("some/file.pkl")


def test_the_bar_counts_mib_and_ends_with_an_error_too(monkeypatch):
    bars = []

    class Bar:
        def __init__(self, title, total, done):
            self.title, self.total, self.done, self.open = title, total, done, False
            bars.append(self)

        def __enter__(self):
            self.open = True
            return self

        def __exit__(self, *_):
            self.open = False

        def advance(self, steps):
            self.done += steps

    def get(name, on_progress, **_):
        on_progress(1 << 20, 5 << 20)
        on_progress((2 << 20) + 7, 5 << 20)
        raise ConnectionError("broke off")

    monkeypatch.setattr(log, "Bar", Bar)
    monkeypatch.setattr(zoo, "get", get)
    with pytest.raises(ConnectionError):
        zoo.download("x")
    (bar,) = bars
    assert (bar.title, bar.total, bar.done, bar.open) == ("x (MiB)", 5, 2, False)
