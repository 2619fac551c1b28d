"""The package is typed: `py.typed` is there, and a checker sees through the lazy public names."""

import subprocess
import sys
from pathlib import Path

import pytest

import nonlocalnet as nl

ROOT = Path(__file__).parents[3]
EXAMPLE = Path(__file__).with_name("typing_example.py")


def check(file: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("ty", reason="ty is not installed")
    command = [sys.executable, "-m", "ty", "check", "--error-on-warning", "--python", sys.prefix]
    command += ["--output-format", "concise", file]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_every_public_name_has_its_type():
    text = EXAMPLE.read_text(encoding="utf-8")
    assert [name for name in nl.__all__ if f"nl.{name}(" not in text] == []
    assert Path(nl.__file__).with_name("py.typed").exists()
    done = check(EXAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_uses_are_seen(tmp_path):
    file = tmp_path / "wrong.py"
    lines = [
        "import nonlocalnet as nl",
        "nl.NonLocalBlock(64, pairwise='dot')",
        "nl.NonLocalBlock(64, path='textbook')",
        "nl.no_such_name",
        "nl.list_models().shape",
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = check(file)
    places = {line.split(":")[1] for line in done.stdout.splitlines() if "error[" in line}
    assert places == {"2", "3", "4", "5"}, done.stdout + done.stderr
