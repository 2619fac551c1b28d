import os

import pytest
import torch

from nonlocalnet.runtime.checkpoint import load_checkpoint, save_checkpoint, write_atomically


def test_what_is_saved_is_read(tmp_path):
    state = {"a": torch.arange(3), "iteration": 7, "scores": {"top1": 1.5}, "steps": [1, 2]}
    save_checkpoint(tmp_path / "new" / "c.pt", state)
    found = load_checkpoint(tmp_path / "new" / "c.pt")
    assert torch.equal(found.pop("a"), state.pop("a"))
    assert found == state


def test_a_failing_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "c.pt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_code_is_run_by_reading(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100), b"\x80\x02K\x01."])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.pt is not a readable checkpoint"):
        load_checkpoint(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
