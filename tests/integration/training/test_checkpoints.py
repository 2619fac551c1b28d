import os
import re
import subprocess
import sys

import pytest
import torch

from nonlocalnet.checkpoints.load import load
from nonlocalnet.runtime.atomic import write_atomically
from nonlocalnet.training.checkpoints import Checkpoints, load_checkpoint, lock, save_checkpoint


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


def test_the_last_k_are_kept_and_the_newest_is_read(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.load() is None
    for iteration in (9, 10, 11):
        checkpoints.save(iteration, {"iteration": iteration})
    assert [path.name for path in checkpoints.files()] == ["00000011.pt", "00000010.pt"]
    assert checkpoints.load() == {"iteration": 11}


def test_a_corrupt_newest_one_falls_back_to_the_one_before(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for iteration in (1, 2, 3):
        checkpoints.save(iteration, {"iteration": iteration})
    (tmp_path / "00000003.pt").write_bytes(b"")
    (tmp_path / "00000002.pt").write_bytes((tmp_path / "00000001.pt").read_bytes()[:99])
    assert checkpoints.load() == {"iteration": 1}
    said = capsys.readouterr().err
    assert "00000003.pt is not a readable checkpoint" in said.replace("\n", " ")
    (tmp_path / "00000001.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no checkpoint of .* can be read"):
        checkpoints.load()


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from nonlocalnet.networks.registry import create_model
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.runtime.atomic import write_atomically
from nonlocalnet.training.checkpoints import save_checkpoint
folder = Path(sys.argv[1])
model = create_model("c2d_tiny", num_classes=2, clip="4x1", crop=32)
info = WeightsInfo(model.config, ["a", "b"])
save_checkpoint(folder / "state.pt", {"iteration": 1})
write_atomically(folder / "weights", lambda file: save_weights(model, file, info))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
for name, write in {
    "state": lambda: save_checkpoint(folder / "state.pt", {"x": torch.randn(100_000)}),
    "weights": lambda: write_atomically(
        folder / "weights", lambda file: save_weights(model, file, info)),
}.items():
    try:
        write()
    except OSError as error:
        print(name, error)
"""


def test_a_write_that_fails_says_so_and_leaves_the_former_file(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert re.search(r"could not be written \(.*MiB are free.*the old file.*is unchanged", line)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["state", "weights"]
    assert load_checkpoint(tmp_path / "state.pt")["iteration"] == 1
    assert load(tmp_path / "weights").fc.out_features == 2
    assert {path.name for path in tmp_path.iterdir()} == {"state.pt", "weights"}


HOLD = """
import sys, time
from pathlib import Path
from nonlocalnet.training.checkpoints import lock
with lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_kept_out_until_the_first_one_ends(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "locked\n"
    with pytest.raises(ValueError, match=f"process {first.pid} is training in"), lock(tmp_path):
        pass
    first.kill()
    first.wait()
    with lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_damaged_later_checkpoint_does_not_push_out_the_readable_ones(tmp_path):
    kept = Checkpoints(tmp_path, keep=1)
    (tmp_path / "00000009.pt").write_text("damaged")
    kept.save(5, {"iteration": 5})
    assert kept.load()["iteration"] == 5


def test_foreign_files_are_no_checkpoints(tmp_path):
    kept = Checkpoints(tmp_path, keep=2)
    kept.save(5, {"iteration": 5})
    (tmp_path / "1abc.pt").write_text("mine")
    torch.save({"weights": 1}, tmp_path / "00000007.pt")
    torch.save([1], tmp_path / "00000008.pt")
    torch.save({"format": 99}, tmp_path / "00000009.pt")
    assert kept.load() == {"iteration": 5}
