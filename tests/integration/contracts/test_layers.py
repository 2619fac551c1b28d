import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CHECK = """
import sys
from importlinter.cli import lint_imports
sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))
"""


def lint(config: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", CHECK, str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def layers() -> str:
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return text[text.index("[tool.importlinter]") :]


def test_modules_import_their_own_layer_and_those_below():
    assert layers()
    done = lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_every_package_of_the_house_has_a_layer():
    text = layers()
    house = ROOT / "src" / "nonlocalnet"
    packages = [path.parent.name for path in house.glob("*/__init__.py")]
    assert packages
    assert [name for name in packages if f"nonlocalnet.{name}" not in text] == []


def test_the_tool_sees_an_import_from_a_lower_layer(tmp_path):
    # the same contract with two layers exchanged: our code must break it
    ops, blocks = '"nonlocalnet.ops | nonlocalnet.runtime"', '"nonlocalnet.blocks"'
    text = layers()
    assert text.count(ops) == text.count(blocks) == 1
    swapped = text.replace(ops, "OPS").replace(blocks, ops).replace("OPS", blocks)
    config = tmp_path / "pyproject.toml"
    config.write_text(swapped, encoding="utf-8")
    done = lint(config)
    assert done.returncode != 0
    assert "nonlocalnet.blocks.non_local_block -> nonlocalnet.ops" in done.stdout
